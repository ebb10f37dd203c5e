"""Kinds of statistics written in one word, for the command line and for records."""

import ast
import dataclasses
import functools
import operator

from batchnorm.nn.statistics.averages import Accumulated, Cumulative, Scheduled
from batchnorm.nn.statistics.base import Statistics
from batchnorm.nn.statistics.renorm import Renorm
from batchnorm.nn.statistics.rows import Domains, PerStep
from batchnorm.nn.statistics.values import Batch, Frozen, Ghost, Synced

__all__ = ["statistics_from_text"]

_KINDS = {
    kind.__name__.lower(): kind
    for kind in (
        Batch, Synced, Ghost, Frozen, Renorm, Cumulative, Scheduled, Accumulated, Domains, PerStep
    )
}  # fmt: skip

_WORDS = {"true": True, "false": False, "inf": float("inf")}


def statistics_from_text(text: str) -> Statistics:
    """Read kinds of statistics.

    Args:
        text: Names in small letters, joined by ``+``; after a colon arguments, separated by commas, in
            order or by name; a value may be ``true``, ``false`` or ``inf``, for no limit.

    Raises:
        ValueError: If a name or argument is unknown or given twice, or the kinds do not go together.

    Example:
        >>> statistics_from_text("ghost:32,last=keep")
        Ghost(size=32, last='keep')
        >>> statistics_from_text("synced+renorm:r_max=2")
        Synced(group=None) + Renorm(r_max=2, d_max=5.0, warmup=0)
    """
    return functools.reduce(operator.add, map(_kind, text.split("+")))


def _kind(text: str) -> Statistics:
    name, _, arguments = text.strip().partition(":")
    if name not in _KINDS:
        raise ValueError(f"stats: expected kinds among {', '.join(_KINDS)}, got {name!r}")
    given: list[object] = []
    named: dict[str, object] = {}
    for word in filter(None, arguments.split(",")):
        key, equals, value = word.rpartition("=")
        if key in named:
            raise ValueError(f"stats: {name} expected {key} once, got {arguments!r}")
        if equals:
            named[key] = _value(value)
        else:
            given.append(_value(word))
    kind = _KINDS[name]
    try:
        return kind(*given, **named)  # type: ignore[arg-type]
    except TypeError:
        fields = ", ".join(field.name for field in dataclasses.fields(kind)) or "none"
        raise ValueError(f"stats: {name} expected the arguments {fields}, got {arguments!r}") from None


def _value(word: str) -> object:
    if word.lower() in _WORDS:
        return _WORDS[word.lower()]
    try:
        return ast.literal_eval(word)
    except (ValueError, SyntaxError):
        return word
