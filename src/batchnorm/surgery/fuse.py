"""Give batch-norm layers the activation, and the addition before it, that alone uses their output.

An activation that is a module gives way where it stands: it becomes a marker that returns its input, and
no code changes. So does an average pooling behind it. An addition or a function stands in the code of the
module that calls the layer, so that module gets other code (`rewrite`), and the whole network is tried on an
example, before and after.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from batchnorm.surgery.exchange import ORIGIN, Layer, become
from batchnorm.surgery.fusion import Absorbed, Fusion
from batchnorm.surgery.plan import plan_fusions
from batchnorm.surgery.pools import plan_pools
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
    if example is None:
        for fusion in fusions:
            fusion.apply()
        for fusion in (pools := plan_pools(model, layers)):  # behind activations that gave way
            fusion.apply()
        fused = _words([*fusions, *pools])
    elif not fusions and not plan_pools(model, layers):
        fused = {}
    else:
        # Torch's kernel, then torch's addition, activation and pooling: equal to the bit to what they
        # replace. So a difference comes from a wrong fusion, never from the order of sums in a faster kernel.
        backends = {name: layer.backend for name, layer in layers.items()}
        before = {name: Snapshot([layer]) for name, layer in layers.items()}
        for layer in layers.values():
            become(layer, type(layer), backend="torch")
        trial = Trial(model, example)
        fusions, refused = _apply_those_that_hold(fusions, trial)
        left |= refused
        pools, _ = _apply_those_that_hold(plan_pools(model, layers), trial)
        fused = _words([*fusions, *pools])
        for name, layer in layers.items():
            if name in fused:
                become(layer, type(layer), backend=backends[name])
            else:
                before[name].restore()
    return fused, {name: reason for name, reason in left.items() if name not in fused}


def _words(fusions: Iterable[Fusion]) -> dict[str, str]:
    words: dict[str, str] = {}
    for name, word in itertools.chain.from_iterable(fusion.words.items() for fusion in fusions):
        words[name] = f"{words[name]}, {word}" if name in words else word
    return words


def _apply_those_that_hold(fusions: list[Fusion], trial: Trial) -> tuple[list[Fusion], dict[str, str]]:
    if not fusions or _try(fusions, trial) is None:
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
    """Give modules that were absorbed, or got other code, their classes back."""
    for module in model.modules():
        if isinstance(module, Absorbed):
            module.__class__ = vars(module).pop(ORIGIN)
        elif issubclass(cls := type(module), Rewritten):
            module.__class__ = cls._home
