"""One mean and variance in place of several: those of a mixture in equal parts."""

from torch import Tensor

__all__ = ["mixture"]


def mixture(means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of a population that is made up of several in equal parts.

    The mean is the mean of the means; the variance is the mean of the variances *plus* the variance of
    the means, without which parts that lie apart would look as narrow as one of them.

    Args:
        means: ``(parts, C)``, floating.
        variances: ``(parts, C)``.

    Returns:
        Mean and variance, each ``(C,)``, float64 on the CPU; exactly those of the parts if all are equal.

    References:
        The law of total variance, e.g. Chan, Golub & LeVeque 1983, equation 2.1, with equal counts.

    Example:
        >>> import torch
        >>> mean, var = mixture(torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [3.0]]))
        >>> mean.item(), var.item()
        (2.0, 6.0)
    """
    means, variances = means.detach().cpu().double(), variances.detach().cpu().double()
    if (means == means[0]).all() and (variances == variances[0]).all():
        return means[0], variances[0]
    return means.mean(0), variances.mean(0) + means.var(0, correction=0)
