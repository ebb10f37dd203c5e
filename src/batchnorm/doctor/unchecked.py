"""Rules that could not be checked, and why."""

import textwrap

from batchnorm.doctor.passes import DataError, ModelError
from batchnorm.doctor.patient import UnavailableError
from batchnorm.records import error_line

__all__ = ["Unchecked"]

LONG = 160  # characters of an error


class Unchecked:
    """Rules that could not be checked.

    Attributes:
        reasons: Why, by code.
        raised: The first error of the model itself.
    """

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.raised: ModelError | None = None

    def add(self, code: str, error: Exception) -> None:
        """Note why a rule is not checked that raised this; an error of the data is raised."""
        if isinstance(error, ModelError):
            self.raised = self.raised or error
            self.reasons[code] = f"the model raised {_short(error.__cause__ or error)}"
        elif isinstance(error, DataError):
            raise error
        else:
            self.reasons[code] = str(error) if isinstance(error, UnavailableError) else _short(error)


def _short(error: BaseException) -> str:
    return textwrap.shorten(error_line(error), LONG, placeholder=" ...")
