"""Every conformance test runs with poisoned memory."""

import pytest


@pytest.fixture(autouse=True, scope="module")
def _poisoned(poisoned_memory: None) -> None:
    pass
