"""Which statistics a batch-norm layer normalizes with: small frozen objects, ``stats=``.

The layer is always the same: normalize, scale, shift, add, activate. What differs between the
variants of batch normalization is where the mean and variance come from in training.
"""

import dataclasses

__all__ = ["Batch", "Statistics"]


@dataclasses.dataclass(frozen=True)
class Statistics:
    """Base of every kind of statistics."""


@dataclasses.dataclass(frozen=True)
class Batch(Statistics):
    """The mini-batch's own mean and variance per channel; the textbook's batch normalization.

    References:
        Ioffe & Szegedy 2015, arXiv:1502.03167, Algorithm 1.
    """
