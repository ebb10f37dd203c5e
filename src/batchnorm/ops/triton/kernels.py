"""The implementation of every operator in `schema`, under its name. Importing this imports Triton."""

from batchnorm.ops.triton.forward import batch_norm_forward, batch_norm_forward_update, normalize
from batchnorm.ops.triton.gradients import batch_norm_backward, normalize_backward
from batchnorm.ops.triton.moments import moments
from batchnorm.ops.triton.parts import backward_apply, backward_reduce, forward_apply
from batchnorm.ops.triton.running import update_running_stats

__all__ = [
    "backward_apply",
    "backward_reduce",
    "batch_norm_backward",
    "batch_norm_forward",
    "batch_norm_forward_update",
    "forward_apply",
    "moments",
    "normalize",
    "normalize_backward",
    "update_running_stats",
]
