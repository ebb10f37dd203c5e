"""The results of a study's trials, looked up by settings."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from batchnorm.records import TrialRecord
from batchnorm.study.intervals import mean_interval

__all__ = ["PerSeed", "Results", "chosen", "compare", "point"]

PerSeed = dict[int, float]
"""A number a seed."""


@dataclasses.dataclass(frozen=True)
class Results:
    """Done trials in the order of the plan.

    Attributes:
        rows: Their records.
    """

    rows: tuple[TrialRecord, ...]

    def where(self, function: str = "", **settings: Any) -> "Results":
        """The trials with these settings, and whose function's name ends like this."""
        return Results(
            tuple(
                row
                for row in self.rows
                if row.function.endswith(function)
                and all(row.settings.get(name) == value for name, value in settings.items())
            )
        )

    def choices(self, setting: str) -> tuple[Any, ...]:
        """The values of a setting, in order."""
        return tuple(dict.fromkeys(row.settings[setting] for row in self.rows if setting in row.settings))

    def per_seed(self, measure: str | Callable[[Mapping[str, Any]], float], **settings: Any) -> PerSeed:
        """One number of each seed's trial.

        Args:
            measure: Name of a number in the results, or a function of them.
            settings: Choose one trial a seed.

        Raises:
            ValueError: If they choose more than one.
        """
        numbers: PerSeed = {}
        for row in self.where(**settings).rows:
            if row.seed in numbers:
                raise ValueError(f"study: settings expected one trial a seed, got several with {settings}")
            numbers[row.seed] = measure(row.result) if callable(measure) else row.result[measure]
        return numbers

    def best(self, setting: str, measure: str, *, largest: bool = True, **settings: Any) -> Any:
        """The value of a setting with the best mean over seeds; None if there are no trials."""
        cells = {
            value: self.per_seed(measure, **{setting: value}, **settings) for value in self.choices(setting)
        }
        means = {value: statistics.fmean(cell.values()) for value, cell in cells.items() if cell}
        if not means:
            return None
        return (max if largest else min)(means, key=lambda value: means[value])

    def points(
        self,
        x: str,
        measure: str | Callable[[Mapping[str, Any]], float],
        series: str,
        **settings: Any,
    ) -> list[dict[str, Any]]:
        """Rows of a figure: mean and interval over seeds for each value of ``x``.

        Args:
            x: A setting.
            measure: As in `per_seed`.
            series: What the line is called.
            settings: Choose one trial a seed and value.
        """
        rows = []
        for value in self.choices(x):
            numbers = self.per_seed(measure, **{x: value}, **settings)
            if numbers:
                rows.append(point(series, value, list(numbers.values())))
        return rows


def point(series: str, x: Any, values: Sequence[float], **more: Any) -> dict[str, Any]:
    """A row of a figure: mean and 95 % t interval; a single value has no interval."""
    mean, low, high = mean_interval(values)
    if len(values) < 2:
        low = high = mean
    return {"series": series, "x": x, "mean": mean, "low": low, "high": high, **more}


def compare(operation: Callable[[float, float], float], left: PerSeed, right: PerSeed) -> list[float]:
    """An operation on the numbers of equal seeds: paired, since equal seeds have equal beginnings.

    Example:
        >>> import operator
        >>> compare(operator.sub, {0: 0.9, 1: 0.8, 2: 0.7}, {0: 0.5, 1: 0.5})
        [0.4, 0.30000000000000004]
    """
    return [operation(left[seed], right[seed]) for seed in left if seed in right]


def chosen(rate: float, rates: Sequence[float]) -> str:
    """A best learning rate in words, which say so if better ones may lie beyond those that were tried.

    Example:
        >>> chosen(0.1, (0.03, 0.1, 0.3)), chosen(0.3, (0.03, 0.1, 0.3))
        ('learning rate 0.1', 'learning rate 0.3 (the largest tried)')
    """
    end = {min(rates): " (the smallest tried)", max(rates): " (the largest tried)"}.get(rate, "")
    return f"learning rate {rate:.4g}{end}"
