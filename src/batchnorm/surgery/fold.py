"""Fold batch norm into its neighbours, and measure that the model is still the same."""

import contextlib
import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from batchnorm.records import error_line
from batchnorm.records.record import Record
from batchnorm.surgery.apply_match import apply_match
from batchnorm.surgery.constants import is_norm
from batchnorm.surgery.copied import copied
from batchnorm.surgery.dataflow import trace_flow
from batchnorm.surgery.equivalence import check_difference, expect_tolerance, outputs_of
from batchnorm.surgery.feed import first_of
from batchnorm.surgery.layers import expect_initialized, is_scripted_norm
from batchnorm.surgery.matching import match

__all__ = ["FoldReport", "expect_predicting", "fold"]

_Model = TypeVar("_Model", bound=nn.Module)


@dataclasses.dataclass(frozen=True)
class FoldReport(Record):
    """What folding did to a model's batch norms, each by name.

    Attributes:
        folded: The layers whose weights took it in.
        alone: Those now a scale and a shift of their own, with the reason.
        kept: Those that are as they were, with the reason.
        untraced: Modules whose forward could not be traced, with torch.fx's reason; below them, each
            module was folded on its own.
        difference: Largest relative difference of the outputs for the example; None without one.
    """

    folded: Mapping[str, tuple[str, ...]]
    alone: Mapping[str, str]
    kept: Mapping[str, str]
    untraced: Mapping[str, str]
    difference: float | None = None


def fold(
    model: _Model, example: Any = None, *, inplace: bool = False, tolerance: float | None = None
) -> tuple[_Model, FoldReport]:
    """Fold batch norm for prediction: into the layer before it, into the one after, or into one step.

    In prediction a batch norm is a scale and a shift per channel. They go into the weights of the
    convolution, transposed convolution or Linear before it; else into those after it, where that is
    exact; else the batch norm becomes a `ScaleShift`. Our layers keep activation and residual.

    Neighbours are found in the data flow (torch.fx), never by names or order: what feeds something
    else too, is shared, hooked or parametrized is not touched. Batch norms that cannot be constants
    are kept and listed: without running statistics, in training mode, with hooks, scripted, of a class with
    a forward of its own, called as a function, or whose tensors other code reads. What is folded is what
    ``forward`` does: another method that uses a layer without its neighbour computes something else then.

    Args:
        model: In prediction mode (``model.eval()``).
        example: Input to measure the difference with: a tensor, a tuple of arguments or a dict of keyword
            arguments. It also shows the ranks of tensors; without it, a BatchNorm1d after a Linear is
            taken to get ``(N, C)``, and refuses another input later.
        inplace: Change the model itself, else a deep copy.
        tolerance: Largest relative difference allowed, ``max|a - b| / max|a|`` per output; by default
            1e-4 in float32, else as in `equivalence.TOLERANCES`.

    Returns:
        The model, of the same classes except for the batch norms, and the report. A layer that took
        a batch norm in has a bias, whether or not it had one.

    Raises:
        ValueError: If the model is in training mode, has lazy parameters or is a ScriptModule; if it cannot
            be copied, which tracing needs in place too; if statistics are broken (NaN, negative variance);
            if folded weights do not fit into the layer's dtype; if the folded model fails on the example, or
            no output has a finite number to compare; or if the difference is above the tolerance. The model
            is then as it was.

    Numerics:
        In float64 on the CPU, stored in the dtype of the layer's weights.

    References:
        Jacob et al. 2018, arXiv:1712.05877, section 3.2 and appendix A.

    Differs from torch:
        `torch.nn.utils.fusion.fuse_conv_bn_eval` and ``torch.fx.experimental.optimization.fuse`` are
        silently wrong for transposed and for shared convolutions, and fold in the weights' dtype.

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU()).eval()
        >>> folded, report = fold(model, torch.randn(2, 3, 8, 8))
        >>> folded[1], dict(report.folded), report.difference < 1e-6
        (Identity(), {'1': ('0',)}, True)
    """
    expect_predicting("fold", model)
    expect_tolerance("fold", tolerance)
    ranks: dict[str, set[int]] = {}
    before: list[Tensor] = []
    again: list[Tensor] = []
    if example is not None:
        before = outputs_of(model, example)
        with _watched_ranks(model) as ranks:
            # once more: where there are hooks, torch's own layers take other ways
            again = outputs_of(model, example)
    flow = trace_flow(model)
    matching = match(flow, ranks)
    result = model if inplace else copied("fold", model)
    with contextlib.ExitStack() as undo:
        modules = dict(result.named_modules())
        for found in matching.matches:
            apply_match(found, modules, undo)
        difference = None
        if example is not None:
            after = _outputs_folded(result, example)
            difference = check_difference("fold", before, after, tolerance, again=lambda: again)
        undo.pop_all()
    return result, FoldReport(
        {m.norm: m.before or m.after for m in matching.matches if not m.why},
        {m.norm: m.why for m in matching.matches if m.why},
        matching.kept,
        {name: why for name, why in flow.untraced.items() if name not in flow.branching},
        difference,
    )


def _outputs_folded(model: nn.Module, example: Any) -> list[Tensor]:
    try:
        return outputs_of(model, example)
    except Exception as error:  # the unfolded one ran: code around a batch norm asked it for something
        raise ValueError(
            f"fold: model expected to run on the example when folded, got {error_line(error)}"
        ) from error


def expect_predicting(op: str, model: nn.Module) -> None:
    """Refuse what is no module, trains, or has no values yet; ``op`` asks, for the errors."""
    expect_initialized(op, model)
    if isinstance(model, torch.jit.ScriptModule):
        raise ValueError(f"{op}: model expected before scripting, got a ScriptModule")
    if model.training:
        raise ValueError(f"{op}: model expected in prediction mode, got training mode; call model.eval()")


@contextlib.contextmanager
def _watched_ranks(model: nn.Module) -> Iterator[dict[str, set[int]]]:
    """Note the ranks of what the batch norms are given."""
    ranks: dict[str, set[int]] = defaultdict(set)

    def watch(name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = first_of(args, kwargs)
            if isinstance(given, Tensor):  # a class of its own may take any object
                ranks[name].add(given.dim())

        return note

    with contextlib.ExitStack() as stack:
        for name, module in model.named_modules():
            if is_norm(module) and not is_scripted_norm(module):
                handle = module.register_forward_pre_hook(watch(name), with_kwargs=True)
                stack.callback(handle.remove)
        yield ranks
