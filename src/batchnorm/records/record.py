"""What all records share: the way to JSON and back."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Self

__all__ = ["Record"]


@dataclasses.dataclass(frozen=True)
class Record:
    """Base of the frozen dataclasses that are one row of a file."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values in the order of the fields; a non-finite number becomes None."""
        return {key: _to_json(value) for key, value in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> Self:
        """Inverse of `to_dict`, from a parsed line, with the records inside it.

        None becomes NaN, but for a field that may be None.

        Raises:
            TypeError: If a field is missing, unknown or of another type.
        """
        if not isinstance(row, Mapping):
            raise TypeError(f"expected an object, got {row!r:.60}")
        kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(cls)}
        values = {}
        for key, value in row.items():
            try:
                values[key] = _from_json(value, kinds.get(key, Any))
            except TypeError as error:
                raise TypeError(f"{key} {error}") from error
        return cls(**values)


def _to_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any, kind: Any = Any) -> Any:
    """A parsed value as a field's type; what a mapping holds may be anything."""
    outer, inner = typing.get_origin(kind), typing.get_args(kind)
    if outer is types.UnionType:  # of something and None
        return None if value is None else _from_json(value, inner[0])
    if isinstance(kind, type) and issubclass(kind, Record):
        return kind.from_dict(value)
    found = value
    if isinstance(value, list):
        found = tuple(_from_json(item, inner[0] if outer is tuple else Any) for item in value)
    elif isinstance(value, dict):
        found = {key: _from_json(item) for key, item in value.items()}
    elif value is None:
        found = math.nan
    if kind is not Any and not isinstance(found, int | float if kind is float else outer or kind):
        raise TypeError(f"expected {kind.__name__ if outer is None else kind}, got {value!r:.60}")
    return found
