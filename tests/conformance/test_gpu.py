"""The Triton kernels on a real card: `make gpu`. Elsewhere they are skipped, and run in the interpreter."""

import copy
import dataclasses

import pytest
import torch
from hypothesis import given
from torch import nn

import batchnorm as bn
from batchnorm.bench import worker
from batchnorm.ops import batch_norm, has_native
from tests.bench.plans import plan
from tests.conformance.comparison import check, run
from tests.conformance.test_oracle import BIG
from tests.conformance.test_parts import in_pieces
from tests.conformance.test_registration import compiler_warns
from tests.strategies import ACTIVATIONS, DTYPES, Case, cases

OPS = torch.ops.batchnorm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

each_layout = pytest.mark.parametrize("layout", ["contiguous", "channels_last"])


def on_gpu(case):
    return dataclasses.replace(case, device="cuda")


def test_the_kernels_are_there():
    assert has_native("cuda"), "Triton is not installed"


@given(case=cases())
def test_training(case):
    check(on_gpu(case), "native", training=True)


@given(case=cases(min_count=1))
def test_prediction(case):
    check(on_gpu(case), "native", training=False)


@given(case=cases())
def test_one_part_is_batch_normalization(case):
    check(on_gpu(case), "native", training=True, function=in_pieces)


@each_layout
@pytest.mark.parametrize("shape", [*BIG, (128, 64, 56, 56), (64, 2048, 7, 7)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_values_per_channel(layout, shape, dtype):
    case = Case(
        shape, dtype, layout, offset=3.0, grad=layout, residual=layout, activation="relu", device="cuda"
    )
    check(case, "native", training=True)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("residual", [None, "contiguous"])
def test_each_activation(activation, residual):
    case = Case((8, 5, 9), activation=activation, residual=residual, seed=1, device="cuda")
    check(case, "native", training=True)
    check(case, "native", training=False)


@each_layout
def test_the_same_call_twice_gives_the_same_bits(layout):
    case = Case((33, 7, 113, 17), layout=layout, activation="gelu", residual=layout, device="cuda")
    first, second = (run(case, case.tensors(), "native", training=True) for _ in range(2))
    assert torch.equal(first[0], second[0])
    for name, gradient in first[1].items():
        assert torch.equal(gradient, second[1][name]), name


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_captured_graph_computes_and_counts_at_each_replay(momentum):
    case = Case((8, 16, 12, 12), activation="relu", residual="contiguous", device="cuda")
    tensors, others = case.tensors(), dataclasses.replace(case, seed=1).tensors()
    mean, var = torch.zeros(16, device="cuda"), torch.ones(16, device="cuda")
    batches = torch.tensor(0, device="cuda")

    def step():
        output, m, v = OPS.batch_norm_forward_update(
            tensors.input, tensors.weight, tensors.bias, tensors.residual, mean, var, batches,
            1e-5, 1, momentum, False,
        )  # fmt: skip
        return output, *OPS.batch_norm_backward(
            tensors.grad_output, tensors.input, tensors.weight, tensors.bias, tensors.residual, m, v, 1e-5, 1
        )

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for tensor, values in ((mean, 0), (var, 1), (batches, 0)):
        tensor.fill_(values)
    tensors.input.copy_(others.input)
    graph.replay()
    moved = mean.clone(), var.clone()
    for tensor, values in ((mean, 0), (var, 1)):
        tensor.fill_(values)
    assert batches.item() == 1
    batches.zero_()
    for replayed, now in zip(captured, step(), strict=True):
        assert torch.equal(replayed, now)
    assert torch.equal(moved[0], mean)
    assert torch.equal(moved[1], var)


@compiler_warns
def test_a_compiled_layer_computes_the_same():
    torch.compiler.reset()
    compiled = torch.compile(batch_norm, fullgraph=True)
    case = Case((8, 3, 5, 7), layout="channels_last", residual="channels_last", activation="relu")
    check(on_gpu(case), "native", training=True, function=compiled)


def test_lean_gradients_are_equal_to_the_last_bit():
    model = nn.Sequential(bn.BatchNorm2d(8, activation="silu"), nn.Softplus()).cuda()
    other = bn.lean(copy.deepcopy(model))
    inputs = [torch.randn(4, 8, 9, 9, device="cuda").requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0])
    for each, input in zip((model, other), inputs, strict=True):
        each(input).square().sum().backward()
    assert torch.equal(inputs[0].grad, inputs[1].grad)


def test_batches_beyond_the_second_dimension_of_a_grid():
    check(Case((70_000, 2, 3), offset=3.0, activation="relu", device="cuda"), "native", training=True)


@each_layout
def test_more_than_2_to_the_31_values(layout):
    shape = (2**15 + 1, 256, 16, 16)
    if torch.cuda.mem_get_info()[0] < 2**35:
        pytest.skip("needs 34 GB of free memory")
    formats = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    x = torch.empty(shape, dtype=torch.bfloat16, device="cuda", memory_format=formats[layout]).zero_()
    x[-1] = 1  # lies wholly beyond 2^31
    y, mean, var = OPS.batch_norm_forward(x, None, None, None, 1e-5, 0)
    share = 1 / shape[0]
    expected = torch.full_like(mean, share)
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(var, expected * (1 - share))
    high = (1 - share) / (share * (1 - share) + 1e-5) ** 0.5
    torch.testing.assert_close(y[-1].float(), torch.full_like(y[-1], high).float())
    assert y[:-1].max() < 0


def test_the_bench_runs():
    for row in worker.measure(
        plan(device="cuda", dtypes=("bfloat16",), peers=("torch", "copy")), threads=1, huge_pages=False
    ):
        assert row.correct
        assert row.seconds > 0
        assert row.memory > 0
        assert row.backend == "native"
