"""Made-up verdicts with the shape of real ones: the book is tested without a study."""

import dataclasses
import math
from typing import Any

from batchnorm.records import EffectRecord, Figure, VerdictRecord


def effect(**other: Any) -> EffectRecord:
    values: dict[str, Any] = {
        "name": "steps",
        "text": "steps to 80 %, own best rates",
        "side": "above",
        "bound": 1.0,
        "unit": "×",
        "method": "t of logarithms",
        "values": (2.5, 2.9, 2.7),
        "mean": 2.6983,
        "low": 2.2,
        "high": 3.3,
        "met": True,
    }
    return EffectRecord(**{**values, **other})


def curve(facets: tuple[str, ...] = (), **other: Any) -> Figure:
    rows = [
        {"series": name, "x": x, "mean": y, "low": y - 0.05, "high": y + 0.05, **({"facet": f} if f else {})}
        for f in facets or ("",)
        for name, slope in (("none", 0.1), ("batch", 0.2))
        for x, y in ((rate, slope * math.log10(rate) + 0.6) for rate in (0.01, 0.1, 1.0, 10.0))
    ]
    figure = Figure(
        name="accuracy",
        title="Test accuracy by learning rate",
        mark="line",
        x="learning rate",
        y="test accuracy",
        band="95 % t interval over seeds",
        rows=tuple(rows),
        x_scale="log",
    )
    return dataclasses.replace(figure, **other)


def dots() -> Figure:
    rows = [
        {"series": name, "x": init, "mean": y, "low": y - 0.02, "high": y + 0.02}
        for name, shift in (("none", 0.0), ("batch", 0.1), ("group", 0.05))
        for init, y in (("zeros", 0.1 + shift), ("xavier", 0.7 + shift), ("10", 0.4 + shift))
    ]
    return Figure(
        "init", "Accuracy by scheme", "dot", "scheme", "accuracy", "95 %", tuple(rows), x_scale="nominal"
    )


def verdict(number: int, verdict: str = "holds", **other: Any) -> VerdictRecord:
    record = VerdictRecord(
        study=f"c{number:02}",
        name=f"claim-{number}",
        claim=f"Claim number {number}.",
        hypothesis="It does what it says.",
        held_equal="Initial weights.",
        measure="Accuracy.",
        against="An interval that reaches 1.",
        verdict=verdict,
        effects=(
            effect(),
            effect(name="more", text="a second effect", mean=0.9, low=0.8, high=1.1, met=False),
        ),
        figures=(curve(),),
        notes=("The best rate is 0.1.",),
        profile="full",
        seeds=(0, 1, 2),
        data="fashion-mnist",
        trials=60,
        failed=0,
        cpu_seconds=321.0,
        command=f"batchnorm study claim-{number} --profile full --seeds 3",
        environment={"torch": "2.13.0", "processor": "A processor"},
    )
    return dataclasses.replace(record, **other)


def book() -> tuple[VerdictRecord, ...]:
    """Four claims: one of each verdict, with every kind of figure."""
    return (
        verdict(1),
        verdict(2, "holds in part", figures=(dots(), curve(("first layer", "second layer")))),
        verdict(3, "does not hold here", claim="Sequences do poorly.", notes=()),
        verdict(4, "not measured", figures=(), effects=(effect(values=(), met=None, mean=math.nan),)),
    )
