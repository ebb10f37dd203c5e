"""Colours of the report, written once: CSS variables for the page, plain values for the pictures.

The charts on the page are SVG whose colours are CSS variables, so light, dark and print are the
style sheet's business and no chart is drawn again when the theme changes.
"""

from collections.abc import Callable
from typing import Any

__all__ = [
    "COLOURS",
    "HUGE",
    "Paint",
    "arm_colour",
    "arm_dash",
    "arm_shape",
    "light",
    "stylesheet",
    "variable",
    "vega_config",
]

Paint = Callable[[str], str]

HUGE = 1e9  # on its way to infinity: tables and axes show three digits from here on

# name: (light, dark). The accents are Okabe and Ito's colours, which colour-blind readers tell
# apart, moved until each has a contrast of at least 4.5 to 1 on its paper. An edge, of a control or
# a line of a chart that says something, has 3 to 1; lines and grids only divide.
COLOURS: dict[str, tuple[str, str]] = {
    "paper": ("#ffffff", "#14161a"),
    "raised": ("#f6f6f3", "#1d2025"),
    "ink": ("#1b1c1e", "#e9e7e2"),
    "muted": ("#5d6066", "#a3a7ae"),
    "line": ("#d9d9d3", "#3a3e45"),
    "edge": ("#85888e", "#737881"),
    "grid": ("#ecece7", "#25282e"),
    "alert": ("#b3261e", "#b3261e"),
    "blue": ("#0072b2", "#56b4e9"),
    "orange": ("#bf5000", "#f0954a"),
    "green": ("#00785a", "#3dc49a"),
    "purple": ("#a3407f", "#dd8fc0"),
}

_ARM_COLOURS = {"batch": "blue", "none": "orange", "torch": "green", "scratch": "purple"}
_ARM_DASHES = {"none": [12, 3, 3, 3], "torch": [7, 5], "scratch": [2, 4]}
_ARM_SHAPES = {"none": "square", "torch": "cross", "scratch": "triangle-up"}


def arm_colour(arm: str) -> str:
    """Name in `COLOURS` of an arm's accent; the same arm has the same colour in every report."""
    return _ARM_COLOURS.get(arm, "muted")


def arm_dash(arm: str) -> list[int]:
    """Dash of an arm's line: what lies on each other must show, also to who sees no colours."""
    return _ARM_DASHES.get(arm, [1, 0])


def arm_shape(arm: str) -> str:
    """Shape of an arm's points, for the same reason."""
    return _ARM_SHAPES.get(arm, "circle")


def variable(name: str) -> str:
    """The colour as a CSS variable, for the page."""
    return f"var(--{name})"


def light(name: str) -> str:
    """The colour on white paper, for the pictures."""
    return COLOURS[name][0]


def stylesheet() -> str:
    """The colours as CSS variables that follow ``color-scheme``."""
    pairs = "".join(f"--{name}: light-dark({day}, {night}); " for name, (day, night) in COLOURS.items())
    return f":root {{ {pairs}}}"


def vega_config(paint: Paint) -> dict[str, Any]:
    """Vega-Lite configuration of every chart: hairline axes, no frame, no ticks.

    Args:
        paint: `variable` for the page, `light` for a picture.
    """
    font = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
    return {
        "background": "transparent",
        "font": font,
        "view": {"stroke": None},
        # The whole chart has one label (the page's aria-label); a label a mark would drown it.
        "aria": False,
        "mark": {"aria": False},
        "axis": {
            "aria": False,
            "domainColor": paint("line"),
            "gridColor": paint("grid"),
            "labelColor": paint("muted"),
            "labelFontSize": 11,
            "ticks": False,
            "labelPadding": 6,
            "titleColor": paint("muted"),
            "titleFontSize": 11,
            "titleFontWeight": "normal",
        },
        "axisQuantitative": {
            "labelExpr": f"abs(datum.value) < {HUGE:.0e} ? datum.label : format(datum.value, '.3~g')"
        },
        "axisX": {"grid": False, "labelFlush": False},
        "axisY": {"domain": False},
        "legend": {
            "labelColor": paint("ink"),
            "labelFontSize": 12,
            "titleColor": paint("muted"),
            "symbolOpacity": 1,
            "symbolStrokeWidth": 0,  # a dashed arm would have a ragged symbol
        },
        "title": {
            "anchor": "start",
            "color": paint("ink"),
            "fontSize": 14,
            "fontWeight": 600,
            "subtitleColor": paint("muted"),
            "subtitleFontSize": 12,
        },
    }
