import torch

from batchnorm.surgery.mixture import mixture


def test_the_mixture_is_that_of_all_the_values_together():
    parts = torch.randn(3, 50, 4, dtype=torch.float64) * 2 + torch.arange(3.0)[:, None, None]
    mean, var = mixture(parts.mean(1), parts.var(1, correction=0))
    everything = parts.flatten(0, 1)
    torch.testing.assert_close(mean, everything.mean(0))
    torch.testing.assert_close(var, everything.var(0, correction=0))


def test_equal_parts_are_kept_to_the_bit():
    # 0.1 + 0.1 + 0.1 is not 0.3 in float64, so an average would move it
    mean, var = mixture(torch.full((3, 1), 0.1, dtype=torch.float64), torch.full((3, 1), 0.7))
    assert mean.item() == 0.1
    assert var.item() == torch.tensor(0.7).item()
