"""The charts of a study, as Vega-Lite specifications made from the figures in its record."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from batchnorm.records import Figure
from batchnorm.report.charts import Spec
from batchnorm.report.theme import Paint, arm_colour, arm_dash, arm_shape

__all__ = ["Style", "panels", "series_styles", "spec_of"]

_ACCENTS = ("blue", "orange", "green", "purple", "muted", "ink")
_SHAPES = ("circle", "square", "cross", "triangle-up", "diamond", "triangle-down")
_DASHES = ([1, 0], [7, 4], [2, 3])
_CROWD = 25  # places beyond which points run into each other
# d3 shortens the numbers of a linear axis to the digits in which its ticks differ, and g would write 1e+2
_TICKS = {"linear": "~r", "log": "~g"}
_LETTER = 6  # pixels of one in an axis label
# the two arms that most studies compare look as they do in the report of a run
_KNOWN = ("batch", "none")


class Style(NamedTuple):
    """How a series looks: a colour's name, the dash of its line and the shape of its points."""

    accent: str
    dash: list[int]
    shape: str


def series_styles(figure: Figure) -> dict[str, Style]:
    """How each series looks, in the order in which they come.

    Example:
        >>> rows = ({"series": "none"}, {"series": "batch"}, {"series": "none"})
        >>> series_styles(Figure("f", "", "line", "x", "y", "", rows))["batch"]
        Style(accent='blue', dash=[1, 0], shape='circle')
    """
    names = tuple(dict.fromkeys(row["series"] for row in figure.rows))
    known = {n: Style(arm_colour(n), arm_dash(n), arm_shape(n)) for n in names if n in _KNOWN}
    taken = {part for style in known.values() for part in (style.accent, style.shape)}
    accents = [accent for accent in _ACCENTS if accent not in taken]
    shapes = [shape for shape in _SHAPES if shape not in taken]
    styles, number = {}, 0
    for name in names:
        if name in known:
            styles[name] = known[name]
        else:
            dash = _DASHES[number // len(accents) % len(_DASHES)]
            styles[name] = Style(accents[number % len(accents)], dash, shapes[number % len(shapes)])
            number += 1
    return styles


def panels(figure: Figure) -> dict[str, list[dict[str, Any]]]:
    """Rows by facet; one facet without a name where the figure has none.

    Values that no axis can show are left out: what is not finite, and on a logarithmic axis what is not
    positive; an interval that goes on below such an axis ends at the lowest number there is.
    """
    lowest = min((v for row in figure.rows for v in (row["mean"], row["low"]) if v > 0), default=1.0)
    found: dict[str, list[dict[str, Any]]] = {}
    for row in figure.rows:
        numbers = {name: row[name] for name in ("mean", "low", "high")}
        if not math.isfinite(numbers["mean"]) or (figure.y_scale == "log" and numbers["mean"] <= 0):
            continue
        for end in ("low", "high"):
            if not math.isfinite(numbers[end]):
                numbers[end] = numbers["mean"]
        if figure.y_scale == "log":
            numbers["low"] = max(numbers["low"], lowest)
        rows = found.setdefault(str(row.get("facet", "")), [])
        rows.append({"series": row["series"], "x": row["x"], **numbers})
    return found


def spec_of(figure: Figure, paint: Paint) -> Spec:
    """A Vega-Lite chart without its numbers, which go into the data ``rows``; its bounds are the data's.

    Args:
        figure: Its marks and axes.
        paint: As in `batchnorm.report.theme`.
    """
    styles = series_styles(figure)
    colour: Spec = _by_series(styles, [paint(style.accent) for style in styles.values()])
    dash = _by_series(styles, [style.dash for style in styles.values()])
    shape = _by_series(styles, [style.shape for style in styles.values()])
    x: Spec = {"field": "x", "title": figure.x}
    if figure.x_scale == "nominal":
        order = list(dict.fromkeys(row["x"] for row in figure.rows))
        x |= {"type": "nominal", "sort": order, "axis": _names_axis(order)}
    else:
        x |= {"type": "quantitative", "scale": {"type": figure.x_scale, "zero": False, "nice": False}}
        x |= {"axis": {"tickCount": 6, "format": _TICKS[figure.x_scale]}}
        if figure.x_scale == "linear" and all(isinstance(row["x"], int) for row in figure.rows):
            x["axis"]["tickMinStep"] = 1  # there is no step, and no process, and a half
    # a logarithmic axis over less than a decade would have no label
    y: Spec = {"type": "quantitative", "scale": {"type": figure.y_scale, "zero": False}}
    y |= {"axis": {"tickCount": 5, "format": _TICKS[figure.y_scale]}}
    mean, low = ({**y, "field": name, "title": figure.y} for name in ("mean", "low"))
    tooltip = [
        {"field": "series", "type": "nominal"},
        {
            "field": "x",
            "title": figure.x,
            "type": "nominal" if figure.x_scale == "nominal" else "quantitative",
        },
        *({"field": name, "type": "quantitative", "format": ".4~g"} for name in ("mean", "low", "high")),
    ]
    ends = {"y": low, "y2": {"field": "high"}, "color": colour}
    if figure.mark == "dot":
        place: Spec = {"x": x, "xOffset": {"field": "series", "sort": list(styles)}}
        layers = [
            {"mark": {"type": "rule", "strokeWidth": 2}, "encoding": {**place, **ends}},
            {
                "mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
                "encoding": {**place, "y": mean, "color": colour, "shape": shape, "tooltip": tooltip},
            },
        ]
    else:
        # a crowd of points hides the dash of its line; they stay, unseen, for the pointer
        crowd = len({row["x"] for row in figure.rows}) > _CROWD
        line = {"x": x, "y": mean, "color": colour, "strokeDash": dash}
        layers = [
            {"mark": {"type": "area", "opacity": 0.15}, "encoding": {"x": x, **ends}},
            {"mark": {"type": "line", "strokeWidth": 2}, "encoding": line},
            {
                "mark": {"type": "point", "filled": True, "size": 40, "opacity": 0 if crowd else 1},
                "encoding": {"x": x, "y": mean, "color": colour, "shape": shape, "tooltip": tooltip},
            },
        ]
    return {"layer": layers}


def _names_axis(names: Sequence[object]) -> Spec:
    """Names lie flat where they have room beside each other, and lean where they would overlap."""
    needed = len(names) * (_LETTER * max((len(str(name)) for name in names), default=0) + _LETTER)
    lean = f"width < {needed}"
    return {
        "labelAngle": {"expr": f"{lean} ? -40 : 0"},
        "labelAlign": {"expr": f"{lean} ? 'right' : 'center'"},
        "labelBaseline": {"expr": f"{lean} ? 'middle' : 'top'"},
        "labelLimit": 160,
        "labelOverlap": False,
    }


def _by_series(styles: Mapping[str, Any], values: Sequence[Any]) -> Spec:
    # the page has a legend of its own, which a screen reader reads
    scale = {"domain": list(styles), "range": list(values)}
    return {"field": "series", "type": "nominal", "scale": scale, "legend": None}
