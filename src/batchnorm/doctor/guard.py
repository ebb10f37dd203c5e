"""A model lent to the doctor, given back as it was, to the bit, also after an error or Ctrl-C."""

import contextlib
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from batchnorm.surgery.borrow import borrowed

__all__ = ["Loan", "untouched"]


class Loan:
    """A lent model, in prediction mode at first.

    Args:
        model: The model.
        frozen: Modules that its training keeps in prediction mode, where the model's own mode does not tell.
    """

    def __init__(self, model: nn.Module, frozen: Iterable[nn.Module] = ()) -> None:
        self.model, self._frozen = model, tuple(frozen)
        # A frozen program of TorchScript has no mode.
        self._found = [(m, m.training) for m in model.modules() if hasattr(m, "training")]

    def as_found(self) -> None:
        """The modes in which the owner handed it over."""
        for module, mode in self._found:
            module.training = mode

    def predict(self) -> None:
        """What the owner gets from ``eval()``, overridden or not."""
        self.model.eval()

    def train(self) -> None:
        """The modes of training.

        A model that was handed over in training mode keeps its modes, frozen layers included. One in
        prediction mode gets what its own ``train()`` sets, but for what is frozen.
        """
        if self._found[0][1]:
            self.as_found()
        else:
            self.model.train()
            for module in self._frozen:
                module.training = False


@contextlib.contextmanager
def untouched(
    model: nn.Module, loaders: Iterable[Any] = (), frozen: Iterable[nn.Module] = ()
) -> Iterator[Loan]:
    """Lend a model: whatever runs inside, the model is afterwards what it was.

    That is parameters, buffers, modes, gradients, attributes such as ``momentum``, and the random
    state of torch, NumPy, Python and of the loaders' generators. No gradients are taken inside unless
    asked for.

    Args:
        model: Any.
        loaders: Whose generators are wound back too.
        frozen: As in `Loan`.
    """
    loan = Loan(model, frozen)
    with contextlib.ExitStack() as stack:
        stack.callback(_parameters(model))
        stack.callback(_attributes(model))
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())
        for generator in _generators(loaders):
            stack.callback(generator.set_state, generator.get_state())
        stack.enter_context(borrowed(model))
        yield loan


def _parameters(model: nn.Module) -> Callable[[], None]:
    kept = [(p, p.detach().clone(), p.grad, p.requires_grad) for p in model.parameters()]
    for parameter, *_ in kept:
        parameter.grad = None  # a backward inside would add to the owner's tensor

    def restore() -> None:
        with torch.no_grad():
            for parameter, value, grad, requires in kept:
                if not _same_bits(parameter, value):
                    parameter.copy_(value)
                parameter.grad = grad
                if parameter.requires_grad != requires:
                    parameter.requires_grad_(requires)

    return restore


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Equal, NaN included: writing a parameter for nothing would spoil a graph before its backward."""
    bits = [value.detach().reshape(-1).contiguous().view(torch.uint8) for value in (one, other)]
    return torch.equal(*bits)


def _attributes(model: nn.Module) -> Callable[[], None]:
    kept = [(module, dict(vars(module)), _registers(module)) for module in model.modules()]

    def restore() -> None:
        for module, attributes, registers in kept:
            now = vars(module)
            for key in [key for key in now if key not in attributes]:
                del now[key]
            now.update(attributes)
            for register, entries in registers:
                if register.keys() != entries.keys():
                    register.clear()
                register.update(entries)

    return restore


def _registers(module: nn.Module) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    """The dictionaries in which torch keeps parameters, children and hooks, with copies."""
    own = [value for key, value in vars(module).items() if key.startswith("_") and isinstance(value, dict)]
    return [(value, dict(value)) for value in own if value is not module._buffers]


def _generators(loaders: Iterable[Any]) -> list[torch.Generator]:
    owners = [
        owner
        for loader in loaders
        for owner in (loader, getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None))
    ]
    found = [getattr(owner, "generator", None) for owner in owners]
    return [generator for generator in found if isinstance(generator, torch.Generator)]
