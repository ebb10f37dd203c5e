"""Which of the four rungs computes: eager, native or torch; ``auto`` chooses.

``native`` means a kernel of ours registered for the tensor's device; the torch dispatcher finds it.
``torch`` is torch's own `batch_norm`, kept to compare with and to fall back on.
"""

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = [
    "BACKENDS",
    "check_backend",
    "has_native",
    "is_recorded",
    "is_transformed",
    "kernel_rung",
    "resolve_backend",
]

BACKENDS = ("auto", "eager", "native", "torch")

# Read once: asking os.environ for what is not there takes a tenth of a small layer's training step.
WISH = os.environ.get("BATCHNORM_BACKEND") or "auto"

# Kinds of device that a loaded kernel library of ours serves, and those where it averages windows too; filled
# as the libraries are loaded.
NATIVE_DEVICES: set[str] = set()
AVERAGING_DEVICES: set[str] = set()


def check_backend(backend: str, argument: str = "backend") -> str:
    """Return ``backend`` if it is one of `BACKENDS`.

    Raises:
        ValueError: If it is not; the text names ``argument``.
    """
    if backend not in BACKENDS:
        raise ValueError(f"batch_norm: {argument} expected one of {', '.join(BACKENDS)}, got {backend!r}")
    return backend


def has_native(device_type: str) -> bool:
    """Whether a compiled kernel of ours serves this kind of device (``"cpu"``, ``"cuda"``, …)."""
    return device_type in NATIVE_DEVICES


def resolve_backend(backend: str, input: Tensor) -> str:
    """Turn a wish into a rung: ``eager``, ``native`` or ``torch``.

    ``auto`` takes ``BATCHNORM_BACKEND`` if that was set before layers were first imported, else the
    native kernel where there is one, else torch's, as for a DTensor or an MKL-DNN tensor; on a CPU, where
    torch sums channels_last data in float32 without blocks and loses digits, it takes eager for those.

    Args:
        backend: One of `BACKENDS`.
        input: The tensor to normalize; its device and layout matter.

    Raises:
        ValueError: If ``backend`` or ``BATCHNORM_BACKEND`` is not known.
        RuntimeError: If ``native`` is asked for and no kernel serves the device.
    """
    if backend == "auto":
        backend = check_backend(WISH, "BATCHNORM_BACKEND")
    if backend == "auto":
        # torch's operators know how to share a DTensor out, ours do not
        if type(input).__name__ == "DTensor" or input.is_mkldnn:
            return "torch"
        # `device` takes longer than all the rest
        if has_native("cpu" if input.is_cpu else input.device.type):
            return "native"
        accurate = not input.is_cpu or input.is_contiguous()
        return "torch" if accurate else "eager"
    if backend == "native" and not has_native(input.device.type):
        raise RuntimeError(
            f"batch_norm: backend expected a compiled kernel for device {input.device.type!r}, got none; "
            "'python -m batchnorm.ops.build' compiles those for the CPU, the extra 'gpu' has those for CUDA"
        )
    return check_backend(backend)


def is_transformed() -> bool:
    """Whether forward-mode AD, vmap or another transform of `torch.func` is at work.

    They see through plain torch operations only: a kernel of ours drops tangents, a Function refuses them.
    """
    return forward_ad._current_level >= 0 or bool(torch._C._are_functorch_transforms_active())


def is_recorded() -> bool:
    """Whether `torch.jit.trace` or `torch.export` is at work.

    They lose a Function's backward, and what they record may run where this package is not: it has to be
    plain torch operations.
    """
    return bool(torch._C._get_tracing_state()) or torch.compiler.is_exporting()


def kernel_rung(backend: str, input: Tensor) -> str:
    """``native`` or ``eager``: `resolve_backend` where torch has no kernel to choose."""
    plain = not is_transformed() and not is_recorded()
    return "native" if plain and resolve_backend(backend, input) == "native" else "eager"
