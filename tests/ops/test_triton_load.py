"""Registering the Triton kernels: where, and at what price."""

import importlib.util
import subprocess
import sys

import pytest
import torch

from batchnorm.ops import schema
from batchnorm.ops.triton import load
from tests.interpreter import INTERPRETED


@pytest.fixture
def registered(monkeypatch):
    """What would be registered."""
    devices = []
    monkeypatch.setattr(load, "register", devices.append)
    return devices


def test_a_torch_without_gpus_registers_nothing(monkeypatch, registered):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.version, "hip", None, raising=False)
    assert load.load_triton() is False
    assert registered == []


@pytest.mark.parametrize("found", [True, False])
def test_a_torch_for_gpus_registers_the_kernels_where_triton_is_installed(monkeypatch, registered, found):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if found else None)
    assert load.load_triton() is found
    assert registered == (["cuda"] if found else [])


def test_registering_imports_no_triton():
    code = (
        "import sys, torch, batchnorm.ops\n"
        "from batchnorm.ops.triton import load\n"
        "load.register('cuda')\n"
        "assert batchnorm.ops.has_native('cuda')\n"
        "assert 'batchnorm.ops.triton.kernels' not in sys.modules\n"
        "assert 'triton' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_there_is_a_kernel_for_every_operator():
    from batchnorm.ops.triton import kernels

    assert sorted(kernels.__all__) == sorted(schema.NAMES)


@pytest.mark.skipif(not INTERPRETED, reason="needs Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda ops, x: ops.moments(torch.ones(3), [3]), "moments: input expected shape"),
        (lambda ops, x: ops.moments(x, [1, 2]), "moments: sizes expected 4 samples, got 3"),
        (
            lambda ops, x: ops.normalize(x, torch.ones(2), torch.ones(3), None, None, None, 1e-5, 0),
            r"normalize: mean expected shape \(3,\), got \(2,\)",
        ),
        (
            lambda ops, x: ops.normalize(x, *[torch.ones(3)] * 2, None, None, x[1:], 1e-5, 0),
            r"normalize: residual expected shape \(4, 3\), got \(3, 3\)",
        ),
        (
            lambda ops, x: ops.update_running_stats(
                torch.ones(3), torch.ones(2), None, torch.ones(3), torch.ones(3), 4, 0.1, False
            ),
            r"update_running_stats: running_var expected shape \(3,\), got \(2,\)",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_memory_is_read(call, message):
    with pytest.raises(RuntimeError, match=f"^{message}"):
        call(torch.ops.batchnorm, torch.ones(4, 3))


@pytest.mark.skipif(not INTERPRETED, reason="needs Triton's interpreter: TRITON_INTERPRET=1")
@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_may_be_strided(momentum):
    x, states = torch.randn(8, 3), []
    for stride in (1, 2):
        mean, var, batches = torch.zeros(6)[::stride][:3], torch.ones(6)[::stride][:3], torch.tensor(4)
        torch.ops.batchnorm.batch_norm_forward_update(
            x, None, None, None, mean, var, batches, 1e-5, 0, momentum, False
        )
        states.append((mean.tolist(), var.tolist(), batches.item()))
    assert states[0] == states[1]
    assert states[0][2] == 5
