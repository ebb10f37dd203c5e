"""What half types round: outputs once, to nearest, ties to even; nothing else."""

import pytest
import torch

from batchnorm.ops import batch_norm
from tests.conformance.comparison import NATIVE, run
from tests.strategies import HALF, Case

# every bit is set: adding to round it up would carry over
NAN_OF_ONES = torch.tensor(-1, dtype=torch.int32).view(torch.float32)

half = pytest.mark.parametrize("dtype", HALF, ids=str)
native = pytest.mark.parametrize("backend", [NATIVE])


def every_value(dtype):
    return torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)


@native
@half
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("side", [4, 64])  # short rows, and long ones
def test_every_sum_of_two_values_is_rounded_to_nearest(backend, dtype, layout, side):
    x = every_value(dtype).view(-1, 4, side, side)
    # to itself, to a neighbour, to values far smaller and far larger, to what the sign is not
    for shift in (0, 1, 40, 0x300, 0x8000, 0x8080):
        added = every_value(dtype).roll(shift).view_as(x)
        z = x.float() + added.float()
        y = batch_norm(
            x.contiguous(memory_format=layout),
            torch.zeros(4),
            torch.ones(4),
            eps=0.0,
            residual=added.contiguous(memory_format=layout),
            backend=backend,
        )
        torch.testing.assert_close(y, z.to(dtype), rtol=0, atol=0, equal_nan=True)


@native
@half
def test_a_nan_of_any_payload_stays_one(backend, dtype):
    parameters = torch.stack([NAN_OF_ONES, -NAN_OF_ONES, torch.tensor(torch.nan)])
    x = torch.ones(2, 3, 10, 10, dtype=dtype)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = batch_norm(
            x.to(memory_format=layout), torch.zeros(3), torch.ones(3), None, parameters, backend=backend
        )
        assert y.isnan().all()


@native
@half
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
@pytest.mark.parametrize("residual", [None, "contiguous"])
@pytest.mark.parametrize("shape", [(257, 5, 17, 19), (1300, 9, 5, 5), (5150, 33)], ids=str)
def test_a_gradient_is_the_same_whether_the_activation_is_evaluated_once_or_twice(
    backend, dtype, layout, residual, shape
):
    """A thread that has a group to itself keeps dz in float; threads that share one evaluate it again."""
    case = Case(shape, dtype=dtype, layout=layout, grad=layout, residual=residual, activation="silu")
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(case, case.tensors(), backend, training=True))
    finally:
        torch.set_num_threads(before)
    (output, gradients), *others = results
    for other_output, other_gradients in others:
        assert torch.equal(other_output, output)
        for name, gradient in gradients.items():
            assert torch.equal(other_gradients[name], gradient), name
