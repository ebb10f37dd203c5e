"""What all records share: the way to JSON and back."""

import dataclasses
import math
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
        """Inverse of `to_dict`, from a parsed line; None becomes NaN, but for a field that may be None.

        Raises:
            TypeError: If a field is missing or unknown.
        """
        optional = {field.name for field in dataclasses.fields(cls) if field.default is None}
        return cls(
            **{
                key: value if value is None and key in optional else _from_json(value)
                for key, value in row.items()
            }
        )


def _to_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(item) for item in value)
    if isinstance(value, dict):
        return {key: _from_json(item) for key, item in value.items()}
    return math.nan if value is None else value
