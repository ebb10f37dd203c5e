"""The compiled CPU kernels, if this installation has them."""

import ctypes
import warnings
from pathlib import Path

import torch

from batchnorm.ops import schema
from batchnorm.ops.backend import AVERAGING_DEVICES, NATIVE_DEVICES

__all__ = ["LIBRARY_FILE", "instruction_set", "load_native"]

LIBRARY_FILE = Path(__file__).with_name("_native.so")


def load_native() -> bool:
    """Load the kernels, which register themselves for the CPU; say so if they are there but do not load.

    Returns:
        Whether they are loaded.
    """
    assert schema.LIBRARY is not None  # the kernels register under schemas that exist
    if not LIBRARY_FILE.exists():
        return False
    try:
        torch.ops.load_library(LIBRARY_FILE)  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        warnings.warn(
            f"batchnorm: compiled kernels expected to load with torch {torch.__version__}, got: {reason}; "
            "going on without them",
            stacklevel=2,
        )
        return False
    NATIVE_DEVICES.add("cpu")
    AVERAGING_DEVICES.add("cpu")
    return True


def instruction_set() -> str | None:
    """Name of the instruction set whose kernels run, or None without compiled kernels.

    Raises:
        RuntimeError: If ``BATCHNORM_CPU_ISA`` names one that this CPU does not have.
    """
    if "cpu" not in NATIVE_DEVICES:
        return None
    # an operator can raise what a plain C function cannot
    torch.ops.batchnorm.moments(torch.zeros(1, 1), [1])
    name = ctypes.CDLL(str(LIBRARY_FILE)).batchnorm_instruction_set
    name.restype = ctypes.c_char_p
    return str(name().decode())
