"""Batch normalization as operators: one meaning, several kernels."""

from batchnorm.ops.activations import ACTIVATIONS
from batchnorm.ops.arguments import NONFINITE
from batchnorm.ops.backend import BACKENDS, check_backend, has_native, resolve_backend
from batchnorm.ops.batch_norm import batch_norm
from batchnorm.ops.native import load_native
from batchnorm.ops.triton import load_triton

__all__ = [
    "ACTIVATIONS",
    "BACKENDS",
    "NONFINITE",
    "batch_norm",
    "check_backend",
    "has_native",
    "resolve_backend",
]

load_native()
load_triton()
