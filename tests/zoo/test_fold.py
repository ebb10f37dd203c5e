"""Networks of other people give the same when their batch norm is folded."""

import pytest

from tests.zoo.architectures import ARCHITECTURES
from tests.zoo.measure_fold import measure

for package in ("pytorchcv", "transformers"):
    pytest.importorskip(package, reason="pip install --group zoo")
pytestmark = pytest.mark.zoo


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_network_is_the_same_after_folding(name):
    row = measure(name)
    assert row["folded"] + row["alone"] > 0
    assert row["kept"] == 0
    if name.startswith("transformers "):  # in these a convolution is before each
        assert row["alone"] == 0
    # Two networks of random weights turn rounding into more than 1e-4; folded they are no less certain.
    assert 0 < row["difference_float32"] <= max(1e-4, 4 * row["rounding_float32"])
    assert row["difference_float64"] <= 1e-10
    assert row["unseen_float64"] <= 1e-7  # random weights may enlarge rounding more on these images
