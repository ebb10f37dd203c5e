"""Colours that can be read."""

import re

import pytest

from batchnorm.report import charts, theme
from batchnorm.report.legend import arm_key


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def mixed(colour: str, paper: str, opacity: float) -> str:
    """What a colour becomes that lets some paper through."""
    parts = [(int(colour[i : i + 2], 16), int(paper[i : i + 2], 16)) for i in (1, 3, 5)]
    return "#" + "".join(f"{round(opacity * own + (1 - opacity) * below):02x}" for own, below in parts)


@pytest.mark.parametrize("name", ["ink", "muted", "blue", "orange", "green", "purple"])
def test_text_and_accents_stand_out_by_day_and_night(name):
    for side in (0, 1):
        assert contrast(theme.COLOURS[name][side], theme.COLOURS["paper"][side]) >= 4.5


def test_white_can_be_read_on_the_loud_mark():
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in theme.COLOURS["alert"])


def test_text_can_be_read_in_boxes():
    for name in ("ink", "muted"):
        for side in (0, 1):
            assert contrast(theme.COLOURS[name][side], theme.COLOURS["raised"][side]) >= 4.5


def test_edges_of_controls_and_reference_lines_can_be_seen():
    assert all(contrast(theme.COLOURS["edge"][side], theme.COLOURS["paper"][side]) >= 3 for side in (0, 1))


@pytest.mark.parametrize("name", ["blue", "orange", "green", "purple"])
def test_points_stand_out_though_one_sees_through_them(name):
    look = charts.Look(("batch",), theme.variable, many_seeds=False, interactive=True)
    for spec in (charts.agreement("mean", look, (0, 1)), charts.affine("bias", look, (0, 1))):
        opacity = spec["layer"][1]["mark"]["opacity"]
        for side in (0, 1):
            paper = theme.COLOURS["paper"][side]
            assert contrast(mixed(theme.COLOURS[name][side], paper, opacity), paper) >= 3


def test_each_arm_has_an_accent_of_its_own():
    arms = ("none", "batch", "torch", "scratch")
    assert len({theme.arm_colour(arm) for arm in arms}) == 4
    assert len({tuple(theme.arm_dash(arm)) for arm in arms}) == 4
    assert len({theme.arm_shape(arm) for arm in arms}) == 4
    assert len({arm_key(arm) for arm in arms}) == 4


def test_every_variable_that_the_charts_use_is_defined():
    defined = set(re.findall(r"--([\w-]+):", theme.stylesheet()))
    assert defined == set(theme.COLOURS)
    assert set(re.findall(r"var\(--([\w-]+)\)", str(theme.vega_config(theme.variable)))) <= defined
