"""The ops as torch.library and torch.compile see them."""

import itertools
import os
import platform
import shutil

import numpy as np
import pytest
import torch
from torch.library import opcheck

import batchnorm.ops.composed  # noqa: F401 - says what its operators do
from batchnorm.ops import batch_norm, eager, schema
from batchnorm.ops.activations import activation_code
from tests.conformance.comparison import check, each_of_ours
from tests.strategies import Case

OPS = torch.ops.batchnorm

SAMPLES = [
    Case((4, 3)),
    Case((4, 3, 5), weight=False, bias=False, dtype=torch.float64, parameters=torch.float64),
    Case(
        (2, 3, 4, 5),
        layout="channels_last",
        residual="channels_last",
        grad="channels_last",
        activation="relu",
    ),
    Case((2, 3, 4, 5), layout="every_second", residual="transposed", grad="channel_slice", activation="gelu"),
    Case((2, 3, 4, 5), layout="transposed", residual="contiguous", activation="relu"),
    Case((2, 3, 2, 4, 3), layout="channels_last", dtype=torch.bfloat16, activation="hardswish", bias=False),
    Case((4, 3, 5), dtype=torch.float16, parameters=torch.float16, residual="contiguous"),
]


def arguments(case, op):
    """Arguments of one of the ops for a case."""
    tensors = case.tensors()
    code = activation_code(case.activation)
    affine = tensors.weight, tensors.bias, tensors.residual
    statistics = tensors.running_mean, tensors.running_var
    sizes = [case.shape[0] - 1, 0, 1]
    rows = [torch.randn(3, case.shape[1], dtype=case.accumulator) for _ in range(5)]
    return {
        "batch_norm_forward": (tensors.input, *affine, case.eps, code),
        "batch_norm_forward_update": (
            tensors.input,
            *affine,
            *statistics,
            torch.tensor(3),
            case.eps,
            code,
            0.1,
            False,
        ),
        "batch_norm_backward": (
            tensors.grad_output,
            tensors.input,
            *affine,
            *eager.moments(tensors.input),
            case.eps,
            code,
        ),
        "normalize": (tensors.input, *statistics, *affine, case.eps, code),
        "normalize_backward": (tensors.grad_output, tensors.input, *statistics, *affine, case.eps, code),
        "update_running_stats": (
            *statistics,
            torch.tensor(3),
            *eager.moments(tensors.input),
            case.count,
            0.1,
            False,
        ),
        "moments": (tensors.input, sizes),
        "forward_apply": (tensors.input, *rows[:3], tensors.residual, sizes, code),
        "backward_reduce": (
            tensors.grad_output,
            tensors.input,
            *rows[:3],
            tensors.residual,
            sizes,
            code,
        ),
        "backward_apply": (tensors.grad_output, tensors.input, *rows, tensors.residual, sizes, code),
        "traced_batch_norm": (tensors.input, *affine, case.eps, code, 1, "native"),
        "traced_normalize": (tensors.input, *affine, *statistics, case.eps, code, 1, "native"),
        "traced_normalize_parts": (
            tensors.input,
            *affine,
            *torch.rand(2, 3, case.shape[1], dtype=torch.float64),
            *(None, torch.ones(3, 1, dtype=torch.float64), None, None, sizes, None),
            case.eps,
            code,
            "native",
        ),
    }[op]


TRACED = ("traced_batch_norm", "traced_normalize", "traced_normalize_parts")


@pytest.mark.parametrize("name", [*schema.NAMES, *TRACED])
@pytest.mark.parametrize("case", SAMPLES, ids=lambda case: f"{case.shape}-{case.dtype}-{case.layout}")
def test_opcheck(name, case):
    opcheck(getattr(OPS, name).default, arguments(case, name))


@pytest.mark.parametrize(
    ("momentum", "skip", "tracked"), list(itertools.product([0.1, None], [True, False], [True, False]))
)
def test_opcheck_of_each_kind_of_running_update(momentum, skip, tracked):
    mean, var, _, *batch, count, _, _ = arguments(SAMPLES[0], "update_running_stats")
    batches = torch.tensor(3) if tracked else None
    opcheck(OPS.update_running_stats.default, (mean, var, batches, *batch, count, momentum, skip))


needs_compiler = pytest.mark.skipif(
    shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler"
)
# Torch's compiler itself calls deprecated parts of torch.
compiler_warns = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@needs_compiler
@compiler_warns
@each_of_ours
@pytest.mark.parametrize(
    ("training", "case"),
    [
        (True, Case((8, 3, 5, 7), layout="channels_last", residual="channels_last", activation="relu")),
        (False, Case((8, 5), dtype=torch.bfloat16, activation="gelu")),
    ],
    ids=["training", "prediction"],
)
def test_compiled_without_a_graph_break(backend, training, case):
    torch.compiler.reset()
    compiled = torch.compile(batch_norm, fullgraph=True)
    check(case, backend, training=training, function=compiled)


@needs_compiler
@compiler_warns
@each_of_ours
def test_compiled_running_statistics_move_as_eager_ones(backend):
    torch.compiler.reset()
    compiled = torch.compile(batch_norm, fullgraph=True)
    states = []
    for function in (batch_norm, compiled):
        mean, var, batches = torch.zeros(3), torch.ones(3), torch.tensor(0)
        for seed in range(3):
            input = Case((8, 3, 5), offset=3.0, seed=seed).tensors().input
            function(
                input,
                mean,
                var,
                training=True,
                momentum=None,
                num_batches_tracked=batches,
                backend=backend,
            )
        states.append((mean, var, batches))
    for plain, traced in zip(*states, strict=True):
        torch.testing.assert_close(traced, plain)


def test_unwritten_memory_shows_here():
    """Else the other tests could pass on what some earlier tensor left behind."""
    input = torch.ones(4, 3, 5)
    for unwritten in (torch.empty(3), input.new_empty(3), torch.empty_like(input)):
        assert torch.isnan(unwritten).all()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc fills new memory")
def test_unwritten_memory_shows_below_torchs_dispatcher():
    # NumPy asks the same allocator as the kernels
    assert (np.empty(5000, np.float32) > 3e38).all()
