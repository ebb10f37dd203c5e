"""Which statistics a batch-norm layer normalizes with: small frozen objects, ``stats=``.

The layer is always the same: normalize, scale, shift, add, activate. What differs between the variants of
batch normalization is where the mean and variance come from in training, and how the running ones follow.
Those are several choices, so kinds add up: ``Synced() + Renorm(r_max=3, d_max=5)``.
"""

from batchnorm.nn.statistics.averages import Accumulated, Cumulative, Scheduled
from batchnorm.nn.statistics.base import Statistics, Sum
from batchnorm.nn.statistics.renorm import Renorm
from batchnorm.nn.statistics.rows import Domains, PerStep, Rows
from batchnorm.nn.statistics.text import statistics_from_text
from batchnorm.nn.statistics.values import Batch, Frozen, Ghost, Synced

__all__ = [
    "Accumulated",
    "Batch",
    "Cumulative",
    "Domains",
    "Frozen",
    "Ghost",
    "PerStep",
    "Renorm",
    "Rows",
    "Scheduled",
    "Statistics",
    "Sum",
    "Synced",
    "statistics_from_text",
]
