"""Where an axis was before operations that move axes; what cannot be told is not guessed."""

import pytest
import torch
from torch import fx

from batchnorm.surgery.axes import before_move, is_move


def moved(move):
    return next(node for node in fx.symbolic_trace(move).graph.nodes if node.op.startswith("call"))


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.permute(0, 2, 3, 1),
        lambda x: x.permute([0, 3, 1, 2]),
        lambda x: torch.permute(x, (1, 0, 2, 3)),
        lambda x: x.transpose(1, -1),
        lambda x: x.swapaxes(-2, 1),
        lambda x: x.contiguous(),
        lambda x: x.flatten(0, 1),
        lambda x: torch.flatten(x, 0, 2),
    ],
)
def test_an_axis_is_found_as_far_as_it_was_not_flattened(move):
    node = moved(move)
    assert is_move(node)
    # sizes tell axes apart; what several were flattened into has none of them
    sizes = (2, 3, 5, 7)
    output = move(torch.empty(sizes))
    for place, size in enumerate(output.shape):
        before = before_move(node, (place, output.dim()))
        assert before == ((sizes.index(size), 4) if size in sizes else None)


@pytest.mark.parametrize(
    "move",
    [
        lambda x: x.flatten(),
        lambda x: x.flatten(-2, -1),
        lambda x: x.flatten(2, 1),
        lambda x: x.flatten(x.dim() - 2, 1),
        lambda x: x.permute(0, 0, 1),
        lambda x: x.permute(0, 4, 1),
        lambda x: x.transpose(0, x.dim() - 1),
        lambda x: x.transpose(1),
    ],
)
def test_what_depends_on_an_unknown_rank_or_fails_is_not_told(move):
    node = [node for node in fx.symbolic_trace(move).graph.nodes if is_move(node)][-1]
    assert [before_move(node, (place, 3)) for place in range(3)] == [None] * 3


@pytest.mark.parametrize(
    "other", [lambda x: x.view(2, -1), lambda x: x.transpose(dim0=0, dim1=1), lambda x: x * 2]
)
def test_other_operations_are_no_moves(other):
    assert not is_move(moved(other))
