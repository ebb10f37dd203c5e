"""The mathematics in float64 NumPy, forward and backward by hand: the oracle of every test."""

from batchnorm.reference.activations import ACTIVATIONS, activate, activation_derivative
from batchnorm.reference.batch_norm import (
    Gradients,
    batch_norm_backward,
    batch_norm_forward,
    batch_norm_predict,
    batch_norm_predict_backward,
    batch_stats,
    update_running_stats,
)
from batchnorm.reference.batch_norm_lstm import (
    LSTMOutput,
    LSTMParameters,
    LSTMRunning,
    StepStatistics,
    batch_norm_lstm_forward,
)
from batchnorm.reference.moments import Moments, merge_moments, normalizing_stats, part_moments
from batchnorm.reference.renorm import renorm_correction, renorm_limits
from batchnorm.reference.running import update_running_ghost, update_running_rows
from batchnorm.reference.weighted import EXCLUDED, weighted_backward, weighted_forward

__all__ = [
    "ACTIVATIONS",
    "EXCLUDED",
    "Gradients",
    "LSTMOutput",
    "LSTMParameters",
    "LSTMRunning",
    "Moments",
    "StepStatistics",
    "activate",
    "activation_derivative",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_lstm_forward",
    "batch_norm_predict",
    "batch_norm_predict_backward",
    "batch_stats",
    "merge_moments",
    "normalizing_stats",
    "part_moments",
    "renorm_correction",
    "renorm_limits",
    "update_running_ghost",
    "update_running_rows",
    "update_running_stats",
    "weighted_backward",
    "weighted_forward",
]
