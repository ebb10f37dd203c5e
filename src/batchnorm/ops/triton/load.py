"""Registering the Triton kernels, without importing Triton before it is needed.

Nothing here asks whether there is a device: that alone would take longer than the import may, and spoil
a later fork. What is registered for a device that is not there is never called.
"""

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from batchnorm.ops import schema
from batchnorm.ops.backend import AVERAGING_DEVICES, NATIVE_DEVICES

__all__ = ["load_triton", "register"]


def load_triton() -> bool:
    """Register the kernels for CUDA tensors, if this torch knows such a device and Triton is installed.

    Returns:
        Whether they are registered.
    """
    builds_for_gpu = torch.version.cuda is not None or torch.version.hip is not None
    if not builds_for_gpu or importlib.util.find_spec("triton") is None:
        return False
    register("cuda")
    return True


def register(device_type: str) -> None:
    """Register the kernels for a kind of device: ``cuda``, or ``cpu`` under Triton's interpreter."""
    for name in schema.NAMES:
        schema.LIBRARY.impl(name, _kernel(name), device_type.upper())
    NATIVE_DEVICES.add(device_type)
    AVERAGING_DEVICES.discard(device_type)


def _kernel(name: str) -> Callable[..., Any]:
    def kernel(*arguments: Any) -> Any:
        kernels = importlib.import_module("batchnorm.ops.triton.kernels")
        # Triton launches on the current device, which need not be the tensors'
        with torch.cuda.device_of(arguments[0]):
            return getattr(kernels, name)(*arguments)

    return kernel
