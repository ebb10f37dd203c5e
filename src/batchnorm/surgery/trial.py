"""Whether a network still gives the same on an example, in both modes."""

import copy
from typing import Any

from torch import Tensor, nn

from batchnorm.surgery.borrow import borrowed
from batchnorm.surgery.copied import copied
from batchnorm.surgery.equivalence import tensors_in
from batchnorm.surgery.feed import call_on

__all__ = ["Trial"]


class Trial:
    """A network and an example to run it on, in prediction and in training mode.

    After each run the model's modes and buffers, the example, and torch's random state are as before.

    Args:
        model: Any; everything that it does must be repeatable, given the random state.
        example: A tensor, a tuple of arguments, or a mapping of keyword arguments.

    Raises:
        ValueError: If the model returns no tensor.
    """

    def __init__(self, model: nn.Module, example: Any) -> None:
        self._model = model
        self._example = tuple(example) if isinstance(example, list) else example
        self._expected = self._run()

    def difference(self) -> str | None:
        """In words, what is different from the first time; None if nothing is, to the bit."""
        try:
            now = self._run()
        except Exception as error:  # foreign code may raise anything
            return f"the example fails: {(str(error).splitlines() or [type(error).__name__])[0]}"
        if len(now) == len(self._expected) and all(map(_same, now, self._expected)):
            return None
        return "the outputs on the example change"

    def _run(self) -> list[Tensor]:
        seen: list[Tensor] = []
        for training in (False, True):
            model = _own(self._model)
            with borrowed(model):
                for module in model.modules():
                    module.training = training
                output = call_on(model, copy.deepcopy(self._example))
                tensors = list(tensors_in(output))
                if not tensors:
                    raise ValueError(
                        "convert: example expected to make the model return a tensor, got "
                        f"{type(output).__name__}"
                    )
                seen += [tensor.clone() for tensor in (*tensors, *model.buffers())]
        return seen


def _own(model: nn.Module) -> nn.Module:
    """A copy, since a forward may fill caches; the model itself where it cannot be copied."""
    try:
        return copied("convert", model)
    except ValueError:
        return model


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return bool(((one == other) | ((one != one) & (other != other))).all())
