"""Give batch-norm layers the activation, and the addition before it, that alone uses their output.

An activation that is a module gives way where it stands: it becomes a marker that returns its input, and
no code changes. An addition or a function stands in the code of the module that calls the layer, so that
module gets other code (`rewrite`), and the whole network is tried on an example, before and after.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from batchnorm.surgery.exchange import ORIGIN, Layer, become
from batchnorm.surgery.plan import Absorbed, Fusion, plan_fusions
from batchnorm.surgery.rewrite import Rewritten
from batchnorm.surgery.snapshot import Snapshot
from batchnorm.surgery.trial import Trial

__all__ = ["fuse", "unfuse"]


def fuse(
    model: nn.Module, layers: Mapping[str, Layer], example: Any
) -> tuple[dict[str, str], dict[str, str]]:
    """Fuse what can be, in place.

    Args:
        model: Any network.
        layers: Ours, with batch statistics, by name.
        example: As in `convert`; None to fuse what needs no other code, without trying it.

    Returns:
        What was put into which layer, and why the others are left, by name.

    Raises:
        Exception: What the model raises on the example; the layers are then half changed.
    """
    fusions, left = plan_fusions(model, layers, rewrite=example is not None)
    if example is None or not fusions:
        for fusion in fusions:
            fusion.apply()
    else:
        # Torch's kernel, then torch's addition and activation: equal to the bit to what they replace. So
        # a difference comes from a wrong fusion, never from the order of sums in a faster kernel.
        backends = {name: layer.backend for name, layer in layers.items()}
        before = {name: Snapshot([layer]) for name, layer in layers.items()}
        for layer in layers.values():
            become(layer, type(layer), backend="torch")
        fusions, refused = _apply_those_that_hold(fusions, Trial(model, example))
        left |= refused
        for name in left:
            before[name].restore()
        for fusion in fusions:
            for name, layer in fusion.layers.items():
                become(layer, type(layer), backend=backends[name])
    return {name: words for fusion in fusions for name, words in fusion.words.items()}, left


def _apply_those_that_hold(fusions: list[Fusion], trial: Trial) -> tuple[list[Fusion], dict[str, str]]:
    if _try(fusions, trial) is None:
        return fusions, {}
    held: list[Fusion] = []
    left: dict[str, str] = {}
    unsteady = trial.difference() is not None
    for fusion in fusions:
        why = "the outputs on the example differ from run to run" if unsteady else _try([fusion], trial)
        if why is None:
            held.append(fusion)
        else:
            left |= dict.fromkeys(fusion.layers, why)
    return held, left


def _try(fusions: Iterable[Fusion], trial: Trial) -> str | None:
    """Apply; if that makes a difference, take it back and say what."""
    before = Snapshot(itertools.chain.from_iterable(fusion.modules() for fusion in fusions))
    for fusion in fusions:
        fusion.apply()
    why = trial.difference()
    if why is not None:
        before.restore()
    return why


def unfuse(model: nn.Module) -> None:
    """Give activations that were absorbed, and modules that got other code, their classes back."""
    for module in model.modules():
        if isinstance(module, Absorbed):
            module.__class__ = vars(module).pop(ORIGIN)
        elif issubclass(cls := type(module), Rewritten):
            module.__class__ = cls._home
