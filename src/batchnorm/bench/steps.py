"""Ours and the peers as callables without arguments: what is timed is one call."""

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import batchnorm.nn as ours
from batchnorm.bench.cases import Problem
from batchnorm.models import NormAct

__all__ = ["PEERS", "Step", "in_turn", "make_peer", "make_step", "our_layer"]

PEERS = ("torch", "inplace", "compile", "copy")

Step = Callable[[], tuple[Tensor, ...]]

_NAMES = {2: "BatchNorm1d", 3: "BatchNorm1d", 4: "BatchNorm2d", 5: "BatchNorm3d"}  # by rank


_IN_PLACE = {"relu": torch.relu_, "sigmoid": torch.sigmoid_}


class InPlace(NormAct):
    """The same as `NormAct`, with addition and activation in place."""

    def forward(self, input: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return act(norm(input) + residual)."""
        output: Tensor = self.norm(input)
        output = output if residual is None else output.add_(residual)
        return output if self.activation is None else _IN_PLACE[self.activation](output)


def our_layer(problem: Problem, backend: str) -> nn.Module:
    """Our layer with the problem's parameters and running statistics."""
    layer = getattr(ours, _NAMES[problem.x.dim()])
    return _prepare(
        layer(
            len(problem.weight),
            dtype=problem.weight.dtype,
            activation=problem.case.activation,
            backend=backend,
        ),
        problem,
    )


def make_step(problem: Problem, layer: nn.Module) -> Step:
    """The case as one call.

    Args:
        problem: What to compute.
        layer: Called with x and, if there is one, the residual.

    Returns:
        A callable that returns the output and, with backward, the gradients of x, of the residual if
        there is one, of the weight and of the bias.
    """
    case = problem.case
    inputs = [problem.x] if problem.residual is None else [problem.x, problem.residual]
    leaves = [*inputs, *layer.parameters()]

    @torch.set_grad_enabled(case.training)
    def step() -> tuple[Tensor, ...]:
        y: Tensor = layer(*inputs)
        return (y, *torch.autograd.grad(y, leaves, problem.grad_output)) if case.backward else (y,)

    return step


def in_turn(steps: Sequence[Step]) -> Step:
    """One call of the next of several steps, which work in different memory."""
    if len(steps) == 1:
        return steps[0]
    turns = itertools.cycle(steps)
    return lambda: next(turns)()


def make_peer(peer: str, *problems: Problem) -> Step:
    """The peer as one call, of each of the problems in turn.

    Args:
        peer: ``torch``: `torch.nn`'s layer, then ``+`` and the activation; ``inplace``: the same with
            addition and activation in place; ``compile``: the first through `torch.compile`;
            ``copy``: a copy that moves the problem's bytes.
        problems: What to compute, or how many bytes to move; copies of one problem.
    """
    problem = problems[0]
    if peer == "copy":
        return in_turn([_copy(problem.bytes_moved, problem.x.device) for _ in problems])
    norm = getattr(nn, _NAMES[problem.x.dim()])
    norm = _prepare(norm(len(problem.weight), dtype=problem.weight.dtype), problem)
    layers = (InPlace if peer == "inplace" else NormAct)(norm, problem.case.activation)
    if peer == "compile":
        # Without a reset dynamo counts every layer as a recompilation of the one before, and gives
        # up after a few without a word.
        torch.compiler.reset()
        layers.compile(fullgraph=True, dynamic=False)
    return in_turn([make_step(each, layers) for each in problems])


def _prepare(layer: nn.Module, problem: Problem) -> nn.Module:
    state = {name: getattr(problem, name) for name in ("weight", "bias", "running_mean", "running_var")}
    layer.load_state_dict({**state, "num_batches_tracked": torch.tensor(0)})
    return layer.to(problem.x.device).train(problem.case.training)


def _copy(bytes_moved: int, device: torch.device) -> Step:
    source = torch.ones(bytes_moved // 8, device=device)  # four bytes read and four written an element
    target = torch.empty_like(source)
    return lambda: (target.copy_(source),)
