"""All ways through a module and the modules that it calls, down to those that are not to be looked into."""

import contextlib
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from batchnorm.surgery.answering import Answering, one_at_a_time, traced
from batchnorm.surgery.ways import Way, ways_through

__all__ = ["Tracing"]


class Tracing:
    """Traces modules of a network one by one.

    Args:
        leaves: Modules that are not looked into, besides torch's own.
        borders: Nor are these from outside; those whose own forward cannot be traced are added.
        known: All modules of the network.
    """

    def __init__(
        self, leaves: Collection[nn.Module], borders: set[nn.Module], known: Collection[nn.Module]
    ) -> None:
        self._leaves, self._borders, self._known = leaves, borders, known

    def is_leaf(self, module: nn.Module) -> bool:
        """Whether a module is not looked into even from inside."""
        return _Tracer(self._leaves, self._known).is_leaf_module(module, "")

    def ways(self, root: nn.Module) -> tuple[list[Way], Exception | None]:
        """The ways through a module, and why they are not all, if its own forward cannot be traced."""
        ways: list[Way] = []
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_at_a_time())
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(torch.no_grad())
            try:
                for way in ways_through(root, functools.partial(self._attempt, root, stack)):
                    ways.append(way)
            except Exception as error:
                return ways, error
        return ways, None

    def _attempt(
        self,
        root: nn.Module,
        stack: contextlib.ExitStack,
        given: Mapping[str, object],
        answers: Sequence[bool],
    ) -> tuple[Answering, fx.Graph | Exception]:
        def fresh() -> _Tracer:
            return _Tracer({*self._leaves, *self._borders}, self._known, answers)

        while True:
            tracer, outcome = traced(fresh, root, given, stack)
            if isinstance(outcome, fx.Graph) or tracer.failed is None or tracer.failed in self._borders:
                return tracer, outcome
            self._borders.add(tracer.failed)


class _Tracer(Answering):
    """Traces down to the leaves and torch's own layers; remembers whose forward failed."""

    proxy_buffer_attributes = True

    def __init__(
        self, leaves: Collection[nn.Module], known: Collection[nn.Module], answers: Sequence[bool] = ()
    ) -> None:
        super().__init__(answers)
        self.leaves = leaves
        self.known = known
        self.failed: nn.Module | None = None
        self._depth = 0

    def is_own_code(self) -> bool:
        return not self._depth

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return m in self.leaves or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        if m not in self.known:  # made in the forward, as a slice of a Sequential is
            return forward(*args, **kwargs)
        self._depth += 1
        try:
            return super().call_module(m, forward, args, kwargs)
        except Exception:
            # the innermost is the first to pass by
            if self.failed is None and not self.is_leaf_module(m, ""):
                self.failed = m
            raise
        finally:
            self._depth -= 1
