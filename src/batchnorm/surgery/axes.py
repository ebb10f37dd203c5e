"""Where an axis of a tensor was before operations that only move axes."""

from typing import Any

from torch import fx

from batchnorm.surgery.call_sites import called_name

__all__ = ["Axis", "before_move", "is_move"]

Axis = tuple[int, int]
"""An axis, counted from 0, and the rank of its tensor."""


_MOVES = ("contiguous", "flatten", "permute", "swapaxes", "transpose")


def is_move(node: fx.Node) -> bool:
    """Whether a node gives the values it is given, perhaps in another shape or order."""
    return node.op in ("call_method", "call_function") and called_name(node) in _MOVES and not node.kwargs


def before_move(node: fx.Node, axis: Axis) -> Axis | None:
    """The place, in a move's input, of an axis of its output; None if that cannot be told.

    Args:
        node: One for which `is_move` holds.
        axis: Of the output.

    Example:
        >>> graph = fx.symbolic_trace(lambda x: x.flatten(0, 1).transpose(0, 1)).graph
        >>> placeholder, flattened, transposed, output = graph.nodes
        >>> before_move(transposed, (1, 2)), before_move(flattened, (1, 2))
        ((0, 2), (2, 3))
    """
    name, arguments = called_name(node), node.args[1:]
    if name == "contiguous":
        return axis
    place, rank = axis
    if name == "flatten" and arguments and all(isinstance(argument, int) for argument in arguments):
        return _before_flatten(place, rank, *arguments)
    order = _order(name, arguments, rank)
    return None if order is None else (order[place], rank)


def _before_flatten(place: int, rank: int, start: Any, end: Any = -1) -> Axis | None:
    # axes counted from the end, or flattened into this one, depend on a rank we do not know
    if start < 0 or end < start or place <= start:
        return None
    return place + (end - start), rank + (end - start)


def _order(name: str, arguments: tuple[Any, ...], rank: int) -> tuple[int, ...] | None:
    """The order of the input's axes that makes the output."""
    if len(arguments) == 1 and isinstance(arguments[0], list | tuple):
        arguments = tuple(arguments[0])
    if not all(isinstance(argument, int) and -rank <= argument < rank for argument in arguments):
        return None
    places = [argument % rank for argument in arguments]
    if name == "permute" and sorted(places) == list(range(rank)):
        return tuple(places)
    if name in ("transpose", "swapaxes") and len(places) == 2:
        order = list(range(rank))
        order[places[0]], order[places[1]] = order[places[1]], order[places[0]]
        return tuple(order)
    return None
