"""The kernels through Triton's own compiler, for GPUs that need not be there: nothing is launched.

The interpreter takes what the compiler refuses: a variable that changes its type in a loop, say. Nor is
there a value to be found here: a call that looked at one, and so waited for the device, would fail.
"""

import dataclasses
import importlib.util

import pytest
import torch

from batchnorm.ops.activations import ACTIVATIONS, activation_code
from tests.interpreter import INTERPRETED

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.skipif(INTERPRETED, reason="Triton's interpreter replaces its compiler"),
]


@dataclasses.dataclass(frozen=True)
class Case:
    """Arguments of a call; nothing is computed, so their memory need not be there."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    activation: str
    layout: torch.memory_format = torch.contiguous_format

    def tensor(self):
        return torch.empty(self.shape, dtype=self.dtype, device="meta").contiguous(memory_format=self.layout)

    def channels(self, *parts):
        dtype = torch.float64 if self.dtype == torch.float64 else torch.float32
        return torch.empty(*parts, self.shape[1], dtype=dtype, device="meta")


CASES = {
    "bfloat16 channels_last": Case((8, 64, 6, 6), torch.bfloat16, "relu", torch.channels_last),
    "float16, more values side by side than 32 bits count": Case((2, 5, 2**31 + 5), torch.float16, "gelu"),
    "float64, sizes of one": Case((2, 1), torch.float64, "sigmoid"),
}


class NoGPU:
    """As much of a driver as the compiler asks for."""

    def __init__(self, architecture):
        self.architecture = architecture

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.architecture, 32)


@pytest.fixture(params=[90])
def compiled(request, monkeypatch, tmp_path):
    """Launches compile instead; the list of what came out, as (name, assembly)."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    results = []

    def compile_only(function, grid):
        def launch(*arguments, **named):
            assert len(grid) == 1
            kernel = function.run(*arguments, grid=grid, warmup=True, **named)
            results.append((function.__name__, kernel.asm["ptx"]))

        return launch

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", NoGPU(request.param))
    monkeypatch.setattr(JITFunction, "__getitem__", compile_only)
    yield results
    for function in kernel_functions():
        function.device_caches.clear()


def kernel_functions():
    from triton.runtime.jit import JITFunction

    from batchnorm.ops.triton import backward, forward, moments, running

    modules = backward, forward, moments, running
    return {v for module in modules for v in vars(module).values() if isinstance(v, JITFunction)}


def call_every_operator(case, kernels):
    code, eps, (mean, var) = activation_code(case.activation), 1e-5, (case.channels(), case.channels())
    x = residual = grad = case.tensor()
    affine = case.channels(), case.channels(), residual
    half = case.shape[0] // 2
    sizes, rows = [half, half], [case.channels(2) for _ in range(5)]
    batches = torch.empty((), dtype=torch.int64, device="meta")
    kernels.batch_norm_forward_update(x, *affine, mean, var, batches, eps, code, 0.1, False)
    kernels.batch_norm_forward_update(x, *affine, mean, var, batches, eps, code, None, True)
    kernels.batch_norm_backward(grad, x, *affine, mean, var, eps, code)
    kernels.normalize(x, mean, var, *affine, eps, code)
    kernels.normalize_backward(grad, x, mean, var, *affine, eps, code)
    kernels.moments(x, sizes)
    kernels.forward_apply(x, *rows[:3], residual, sizes, code)
    kernels.backward_reduce(grad, x, *rows[:3], residual, sizes, code)
    kernels.backward_apply(grad, x, *rows, residual, sizes, code)


@pytest.mark.parametrize(
    ("name", "compiled"), list(zip(CASES, [90, 90, 80], strict=True)), indirect=["compiled"]
)
def test_every_kernel_compiles_for_gpus_that_are_not_here(name, compiled):
    from batchnorm.ops.triton import kernels

    call_every_operator(CASES[name], kernels)
    assert {function for function, _ in compiled} == {
        function.__name__ for function in kernel_functions() if function.__name__.endswith("_kernel")
    }
    if CASES[name].layout == torch.channels_last:
        for function, assembly in compiled:
            if function in ("batch_norm_fwd_kernel", "batch_norm_moments_kernel"):
                assert "ld.global.v4" in assembly, f"{function} does not load 16 bytes at a time"


def test_every_activation_compiles(compiled):
    from batchnorm.ops.triton import kernels

    for code in range(len(ACTIVATIONS)):
        kernels.normalize(torch.ones(8, 4), torch.ones(4), torch.ones(4), None, None, None, 1e-5, code)
    assert len({assembly for _, assembly in compiled}) == len(ACTIVATIONS)
