"""What the doctor is told about the training beside model and data."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["GOALS", "Optimizers", "Settings", "as_one", "belongs"]

GOALS = ("train", "predict", "fold", "export")


class Optimizers:
    """Several optimizers as one, as far as rules read one.

    Args:
        each: One or more.
    """

    def __init__(self, each: Sequence[torch.optim.Optimizer]) -> None:
        self.each = tuple(each)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Of all, in order."""
        return [group for optimizer in self.each for group in optimizer.param_groups]

    @property
    def state(self) -> Mapping[Any, Any]:
        """Of all parameters."""
        return {key: value for optimizer in self.each for key, value in optimizer.state.items()}


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """Circumstances of a diagnosis; all optional, each one lets more rules be checked.

    Attributes:
        optimizer: Of the training.
        forward_fn: Runs the model on a batch, ``forward_fn(model, batch)``; None for batches that are a
            tensor or a dict of arguments, or begin with one.
        step_fn: One training step without the optimizer's, ``step_fn(model, batch)``: all its forwards
            and its backward. None for one forward and the backward of the outputs' sum.
        predict_fn: How you evaluate, ``predict_fn(model, batch)`` with its own choice of mode, returning
            the outputs; the first dimension is the sample's. None for a forward after ``eval()``.
        evaluate_fn: A whole evaluation, ``evaluate_fn(model)``, to see whether it moves statistics.
        device: Where batches are moved; None for the model's device.
        goal: What comes next: ``train``, ``predict``, ``fold`` or ``export``; None if open.
        target_loader: Batches of the domain it will be used on.
        checkpoint: The state dict that was loaded into the model.
        made_anew: Names of modules that the checkpoint lacks on purpose, as a new head.
        source_eps: What eps was where the weights come from: one number or by layer name.
        steps: Optimizer steps of the whole training.
        accumulation: Micro-batches per optimizer step.
        replicas: Over how many devices one batch of the loader is split.
        ranks: Processes that train together, each with its own loader.
        averaging: How weights are averaged: ``parameters`` (EMA or SWA of parameters alone), ``buffers``
            (buffers too), ``update_bn`` (torch's helper follows), ``recalibrate`` (ours follows), or
            ``clients`` (federated mean).
        averaged_from: The live model of which this one is the average.
        snapshot: A state dict that was kept to be restored later.
        frozen: Names of modules that are meant to be frozen. In a model in prediction mode, whose layers' own
            modes tell nothing, they are taken as frozen in training, as are layers without gradients beside
            others with.
        lengths_fn: ``lengths_fn(batch)``: valid lengths ``(N,)`` of padded inputs ``(N, C, L)``.
        independence: Why samples must not see each other: ``private``, ``penalty`` or ``contrastive``.
        transform: What the model runs inside of: ``vmap`` over inputs, ``grad`` (grad or jacrev) or
            ``fullgraph``, a compile without breaks.
        target_dtype: Of the engine it is exported for.
    """

    optimizer: torch.optim.Optimizer | Optimizers | None = None
    forward_fn: Callable[[nn.Module, Any], object] | None = None
    step_fn: Callable[[nn.Module, Any], object] | None = None
    predict_fn: Callable[[nn.Module, Any], Tensor] | None = None
    evaluate_fn: Callable[[nn.Module], object] | None = None
    device: torch.device | str | None = None
    goal: str | None = None
    target_loader: Any = None
    checkpoint: Mapping[str, Tensor] | None = None
    made_anew: Sequence[str] = ()
    source_eps: float | Mapping[str, float] | None = None
    steps: int | None = None
    accumulation: int = 1
    replicas: int = 1
    ranks: int = 1
    averaging: str | None = None
    averaged_from: nn.Module | None = None
    snapshot: Mapping[str, Tensor] | None = None
    frozen: Sequence[str] = ()
    lengths_fn: Callable[[Any], Tensor] | None = None
    independence: str | None = None
    transform: str | None = None
    target_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        words = {
            "goal": GOALS,
            "averaging": ("parameters", "buffers", "update_bn", "recalibrate", "clients"),
            "independence": ("private", "penalty", "contrastive"),
            "transform": ("vmap", "grad", "fullgraph"),
        }
        for name, allowed in words.items():
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"diagnose: {name} expected one of {', '.join(allowed)}, got {value!r}")
        for name in ("accumulation", "replicas", "ranks", *(() if self.steps is None else ("steps",))):
            value = getattr(self, name)
            if not (isinstance(value, Real) and float(value) >= 1):
                raise ValueError(f"diagnose: {name} expected 1 or more, got {value!r}")
        for optimizer in () if self.optimizer is None else getattr(self.optimizer, "each", (self.optimizer,)):
            if not hasattr(optimizer, "param_groups"):
                got = type(optimizer).__name__
                raise ValueError(f"diagnose: optimizer expected a torch.optim.Optimizer, got {got}")
        eps = self.source_eps
        for value in eps.values() if isinstance(eps, Mapping) else () if eps is None else (eps,):
            if not (isinstance(value, Real) and 0 <= float(value) < math.inf):
                raise ValueError(f"diagnose: source_eps expected a finite number, 0 or more, got {value!r}")


def as_one(optimizer: Any) -> Any:
    """A list of optimizers as one; anything else as it is, for `Settings` to check."""
    return Optimizers(optimizer) if isinstance(optimizer, list | tuple) and optimizer else optimizer


def belongs(layer: str, modules: Iterable[str]) -> bool:
    """Whether a layer is one of these modules, or in one; all by name."""
    return any(layer == module or layer.startswith(f"{module}.") for module in modules)
