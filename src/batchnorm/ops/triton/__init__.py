"""Triton kernels for GPUs; Triton itself is imported when one of them is first called."""

from batchnorm.ops.triton.load import load_triton

__all__ = ["load_triton"]
