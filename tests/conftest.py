"""Settings of every test, and the fixture that makes unwritten memory show."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import settings

# One thread, so that sums are taken in the same order wherever the tests run.
torch.set_num_threads(1)

# A clean clone tests the same examples everywhere; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.load_profile("repeatable")


@pytest.fixture(scope="module")
def poisoned_memory() -> Iterator[None]:
    """Fill each new uninitialized tensor with NaN, those that C++ kernels allocate too.

    Torch does so itself in its deterministic mode; replacing `torch.empty` would miss `new_empty` and C++.
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(before)
