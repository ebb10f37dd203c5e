"""The charts, as Vega-Lite specifications without their numbers.

A specification names its data ``rows`` and, on the page, its bounds ``low`` and ``high``; the
page's script and `batchnorm.report.pictures` fill in the same shapes: epoch rows for `curve`,
layer rows for the others. Taking channels apart and means over seeds is left to Vega-Lite, so
that both do it the same way.

References:
    Satyanarayan, Moritz, Wongsuphasawat and Heer 2017, "Vega-Lite: A Grammar of Interactive Graphics".
"""

import dataclasses
from typing import Any

from batchnorm.records import QUANTILE_LEVELS
from batchnorm.report.theme import Paint, arm_colour, arm_dash, arm_shape

__all__ = ["ON_PAGE", "Look", "Spec", "affine", "agreement", "curve", "input_bands"]

Spec = dict[str, Any]

ON_PAGE = ({"expr": "low"}, {"expr": "high"})
"""Bounds that the page's script sets, as parameters of the chart."""


@dataclasses.dataclass(frozen=True)
class Look:
    """What the charts of one medium share.

    Attributes:
        arms: Arms of the run, in its order.
        paint: Colours by name, see `batchnorm.report.theme`.
        many_seeds: Draw a line a seed behind the mean.
        interactive: Add what answers to the pointer, and leave the legend to the page.
    """

    arms: tuple[str, ...]
    paint: Paint
    many_seeds: bool
    interactive: bool

    def colour(self) -> Spec:
        """The encoding that gives each arm its accent."""
        return self._by_arm([self.paint(arm_colour(arm)) for arm in self.arms])

    def dash(self) -> Spec:
        """The encoding that gives each arm's lines their dash."""
        return {**self._by_arm([arm_dash(arm) for arm in self.arms]), "legend": None}

    def shape(self) -> Spec:
        """The encoding that gives each arm's points their shape."""
        return self._by_arm([arm_shape(arm) for arm in self.arms])

    def _by_arm(self, values: list[Any]) -> Spec:
        return {
            "field": "arm",
            "type": "nominal",
            "scale": {"domain": list(self.arms), "range": values},
            "legend": None if self.interactive else {"orient": "top", "title": None},
        }


def curve(measure: str, look: Look, bounds: tuple[Any, Any], epochs: tuple[int, int]) -> Spec:
    """A measure by epoch: one line an arm, the mean over seeds, with the seeds behind it.

    Args:
        measure: Name of a field of `EpochRecord`.
        look: The medium.
        bounds: Ends of the vertical axis.
        epochs: First and last epoch.
    """
    x = _epoch_axis(epochs)
    y: Spec = {"field": measure, "type": "quantitative", "title": None}
    y |= {"scale": _scale(bounds, nice=True), "axis": {"tickCount": 5}}
    mean = {**y, "aggregate": "mean"}
    size: Spec = {"value": 40 if _dots(epochs) else 0}
    layers: list[Spec] = []
    if look.many_seeds:
        seeds: Spec | float = {"expr": "seeds ? 0.4 : 0"} if look.interactive else 0.4
        layers.append(
            {
                "mark": {"type": "line", "strokeWidth": 1, "opacity": seeds},
                "encoding": {"x": x, "y": y, "color": look.colour(), "detail": {"field": "seed"}},
            }
        )
    place = {"x": x, "y": mean, "color": look.colour()}
    layers.append(
        {"mark": {"type": "line", "strokeWidth": 2.25}, "encoding": {**place, "strokeDash": look.dash()}}
    )
    if look.interactive:
        size = {"condition": {"param": "hover", "empty": False, "value": 110}, **size}
    layers.append(
        {
            "mark": {"type": "point", "filled": True, "opacity": 1},
            "encoding": {**place, "shape": look.shape(), "size": size},
        }
    )
    if look.interactive:
        # A wide invisible target. Not "nearest": with that, Vega-Lite 6 loses the arm in the tooltip.
        target = {"type": "point", "filled": True, "size": 500, "opacity": 0}
        layers.append(
            {
                "params": [_hover(["x", "color"], nearest=False)],
                "mark": target,
                "encoding": {**place, "tooltip": _mean_tooltip(measure, look)},
            }
        )
    return {"layer": layers}


def _mean_tooltip(measure: str, look: Look) -> list[Spec]:
    number = {"field": measure, "type": "quantitative", "format": ".4~f"}
    where = [{"field": "arm", "type": "nominal"}, {"field": "epoch", "type": "quantitative"}]
    if not look.many_seeds:
        return [*where, {**number, "aggregate": "mean", "title": "value"}]
    return [
        *where,
        {**number, "aggregate": "mean", "title": "mean"},
        {**number, "aggregate": "stdev", "title": "sd"},
        {"field": measure, "aggregate": "valid", "title": "seeds"},
    ]


def input_bands(look: Look, bounds: tuple[Any, Any], epochs: tuple[int, int]) -> Spec:
    """Quantiles of a layer's input by epoch, as nested bands about the median; one arm a chart.

    Args:
        look: The medium.
        bounds: Ends of the vertical axis.
        epochs: First and last epoch.
    """
    x = {**_epoch_axis(epochs), "title": None}
    # Each chart says which arm it shows; a legend would repeat it.
    colour = {**look.colour(), "legend": None}
    median = len(QUANTILE_LEVELS) // 2
    dot: Spec | bool = {"size": 16, "filled": True} if _dots(epochs) else False
    # One epoch has no area; a bar shows the same bands.
    band: Spec = {"type": "bar", "width": 36} if epochs[0] == epochs[1] else {"type": "area"}
    layers: list[Spec] = [
        {
            "mark": {**band, "opacity": opacity},
            "encoding": {
                "x": x,
                "y": {**_quantile(lower), "scale": _scale(bounds)},
                "y2": {"field": _quantile(-1 - lower)["field"]},
                "color": colour,
            },
        }
        for lower, opacity in zip(range(median), (0.16, 0.2, 0.3), strict=True)
    ]
    layers.append(
        {
            "mark": {"type": "line", "strokeWidth": 2, "point": dot},
            "encoding": {"x": x, "y": {**_quantile(median), "scale": _scale(bounds)}, "color": colour},
        }
    )
    if look.interactive:
        shares = [
            {**_quantile(i), "title": f"{level:.0%} below", "format": ".4~g"}
            for i, level in enumerate(QUANTILE_LEVELS)
        ]
        layers.append(
            {
                "params": [_hover(["x"], nearest=True)],
                "mark": {"type": "rule", "color": look.paint("muted"), "strokeWidth": 1},
                "encoding": {
                    "x": x,
                    "opacity": {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0},
                    "tooltip": [{"field": "epoch", "type": "quantitative"}, *reversed(shares)],
                },
            }
        )
    return {"layer": layers}


def agreement(statistic: str, look: Look, bounds: tuple[Any, Any]) -> Spec:
    """Running against population statistics: a point a channel, on the diagonal where they agree.

    Args:
        statistic: ``mean`` or ``var``.
        look: The medium.
        bounds: Ends of both axes.
    """
    running, population = f"running_{statistic}", f"population_{statistic}"
    low, high = ({"datum": end, "type": "quantitative"} for end in bounds)
    axis = {"type": "quantitative", "scale": _scale(bounds), "axis": {"tickCount": 4}}
    return {
        "layer": [
            {
                "mark": {"type": "rule", "color": look.paint("edge"), "strokeWidth": 1.25},
                "encoding": {"x": low, "y": low, "x2": high, "y2": high},
            },
            {
                "transform": _by_channel(running, population),
                "mark": {"type": "point", "filled": True, "size": 42, "opacity": 0.8},
                "encoding": {
                    "x": {**axis, "field": population, "title": "population"},
                    "y": {**axis, "field": running, "title": "running"},
                    "color": look.colour(),
                    "shape": look.shape(),
                    **_channel_tooltip(look, running, population),
                },
            },
        ]
    }


def affine(parameter: str, look: Look, bounds: tuple[Any, Any]) -> Spec:
    """A learned parameter by channel, with a line where it started.

    Args:
        parameter: ``weight`` (gamma, starts at 1) or ``bias`` (beta, starts at 0).
        look: The medium.
        bounds: Ends of the vertical axis.
    """
    start = {"weight": 1, "bias": 0}[parameter]
    return {
        "layer": [
            {
                "mark": {"type": "rule", "color": look.paint("edge"), "strokeWidth": 1.25},
                "encoding": {"y": {"datum": start}},
            },
            {
                "transform": _by_channel(parameter),
                "mark": {"type": "point", "filled": True, "size": 36, "opacity": 0.8},
                "encoding": {
                    "x": {
                        "field": "channel",
                        "type": "quantitative",
                        "scale": {"nice": False, "zero": False, "padding": 6},
                        "axis": {"format": "d", "tickMinStep": 1, "tickCount": 5},
                    },
                    "y": {
                        "field": parameter,
                        "type": "quantitative",
                        "title": None,
                        "scale": _scale(bounds),
                        "axis": {"tickCount": 4},
                    },
                    "color": look.colour(),
                    "shape": look.shape(),
                    **_channel_tooltip(look, parameter),
                },
            },
        ]
    }


def _epoch_axis(epochs: tuple[int, int]) -> Spec:
    first, last = epochs
    axis: Spec = {"format": "d", "tickCount": 6}
    if last - first < 6:
        axis = {"format": "d", "values": list(range(first, last + 1))}  # no tick between two epochs
    domain = [first - 1, last + 1] if first == last else [first, last]
    return {
        "field": "epoch",
        "type": "quantitative",
        "scale": {"domain": domain, "nice": False},
        "axis": axis,
    }


def _dots(epochs: tuple[int, int]) -> bool:
    """A long run has no room for a dot an epoch; a run of one epoch has nothing but its dots."""
    return epochs[1] - epochs[0] < 25


def _scale(bounds: tuple[Any, Any], *, nice: bool = False) -> Spec:
    return {"domain": list(bounds), "zero": False, "nice": nice}


def _quantile(index: int) -> Spec:
    index %= len(QUANTILE_LEVELS)
    return {"field": f"input_quantiles[{index}]", "type": "quantitative", "title": None}


def _by_channel(*fields: str) -> list[Spec]:
    """One row a channel, numbered from 0, from rows whose ``fields`` hold a list over channels."""
    return [
        {"filter": " && ".join(f"isArray(datum.{field})" for field in fields)},
        {"calculate": f"sequence(length(datum.{fields[0]}))", "as": "channel"},
        {"flatten": ["channel", *fields]},
    ]


def _channel_tooltip(look: Look, *fields: str) -> Spec:
    if not look.interactive:
        return {}
    numbers = [{"field": field, "type": "quantitative", "format": ".4~g", "title": field} for field in fields]
    where = [{"field": "arm", "type": "nominal"}, {"field": "channel", "type": "quantitative"}]
    return {"tooltip": [*where, *numbers]}


def _hover(encodings: list[str], *, nearest: bool) -> Spec:
    select = {"type": "point", "on": "pointerover", "clear": "pointerout", "encodings": encodings}
    return {"name": "hover", "select": {**select, "nearest": nearest}}
