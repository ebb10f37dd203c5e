"""Batch-norm layers, an LSTM of them, and their kinds of statistics."""

from batchnorm.nn import statistics
from batchnorm.nn.batch_norm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.nn.batch_norm_lstm import BatchNormLSTM
from batchnorm.nn.lean import lean

__all__ = ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormLSTM", "lean", "statistics"]
