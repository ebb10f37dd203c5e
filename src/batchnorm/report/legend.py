"""The key of a series: its colour, dash and point as its chart draws them, so that colour is never alone."""

from collections.abc import Sequence

from batchnorm.report.theme import arm_colour, arm_dash, arm_shape

__all__ = ["POINTS", "arm_key", "key"]

# Vega's shapes as SVG paths about (10, 6)
POINTS = {
    "circle": "M6 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "square": "M6.5 2.5h7v7h-7z",
    "cross": "M8.7 2h2.6v2.7H14v2.6h-2.7V10H8.7V7.3H6V4.7h2.7z",
    "triangle-up": "M10 1.5l4.5 8h-9z",
    "diamond": "M10 .5l4 5.5-4 5.5-4-5.5z",
    "triangle-down": "M10 10.5l4.5-8h-9z",
}


def key(accent: str, dash: Sequence[int], shape: str) -> str:
    """A short piece of the line with its point, as SVG; the words beside it name it.

    Args:
        accent: Name of its colour in `theme.COLOURS`.
        dash: Lengths of dashes and gaps.
        shape: One of `POINTS`.
    """
    return (
        '<svg class="key" viewBox="0 0 20 12" preserveAspectRatio="xMidYMid slice" aria-hidden="true"'
        f' style="color: var(--{accent})">'
        f'<path d="M0 6h20" stroke-dasharray="{" ".join(map(str, dash))}"/>'
        f'<path d="{POINTS[shape]}" fill="currentColor" stroke="none"/></svg>'
    )


def arm_key(arm: str) -> str:
    """The key of an arm, the same in every report."""
    return key(arm_colour(arm), arm_dash(arm), arm_shape(arm))
