"""What modules are made of, so that a surgery that fails half way leaves nothing behind."""

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["Snapshot"]


class Snapshot:
    """Class, attributes and buffers of modules; tensors are kept as objects, not copied.

    Args:
        modules: Any; scripted ones are left out, since no surgery changes them.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self._kept = [
            (m, type(m), dict(vars(m)), dict(m._buffers), set(m._non_persistent_buffers_set))
            for m in modules
            if not isinstance(m, torch.jit.ScriptModule)
        ]

    def restore(self) -> None:
        """Make the modules what they were."""
        for module, cls, attributes, buffers, hidden in self._kept:
            module.__class__ = cls
            vars(module).clear()
            vars(module).update(attributes)
            module._buffers.clear()
            module._buffers.update(buffers)
            module._non_persistent_buffers_set.clear()
            module._non_persistent_buffers_set.update(hidden)
