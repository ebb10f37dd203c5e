"""Colours that can be read."""

import re

import pytest

from batchnorm.report import theme


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["ink", "muted", "blue", "orange", "green", "purple"])
def test_text_and_accents_stand_out_by_day_and_night(name):
    for side in (0, 1):
        assert contrast(theme.COLOURS[name][side], theme.COLOURS["paper"][side]) >= 4.5


def test_white_can_be_read_on_the_loud_mark():
    assert all(contrast(colour, "#ffffff") >= 4.5 for colour in theme.COLOURS["alert"])


def test_each_arm_has_an_accent_of_its_own():
    arms = ("none", "batch", "torch", "scratch")
    assert len({theme.arm_colour(arm) for arm in arms}) == 4
    assert theme.arm_dash("batch") != theme.arm_dash("torch") != theme.arm_dash("scratch")
    assert theme.arm_shape("batch") != theme.arm_shape("torch") != theme.arm_shape("scratch")


def test_every_variable_that_the_charts_use_is_defined():
    defined = set(re.findall(r"--([\w-]+):", theme.stylesheet()))
    assert defined == set(theme.COLOURS)
    assert set(re.findall(r"var\(--([\w-]+)\)", str(theme.vega_config(theme.variable)))) <= defined
