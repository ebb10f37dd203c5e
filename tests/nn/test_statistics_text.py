"""Kinds of statistics in one word."""

import pytest

from batchnorm.nn.statistics import (
    Accumulated,
    Batch,
    Cumulative,
    Frozen,
    Ghost,
    PerStep,
    Renorm,
    Synced,
    statistics_from_text,
)


@pytest.mark.parametrize(
    ("text", "stats"),
    [
        ("batch", Batch()),
        ("ghost:32", Ghost(32)),
        ("ghost:size=32,last=keep", Ghost(32, "keep")),
        ("renorm:2,1.5", Renorm(2, 1.5)),
        ("synced + renorm:warmup=100", Synced() + Renorm(warmup=100)),
        ("frozen:affine=True", Frozen(affine=True)),
        ("frozen:affine=false", Frozen(affine=False)),
        ("frozen:true", Frozen(affine=True)),
        ("renorm:r_max=inf,d_max=inf", Renorm(float("inf"), float("inf"))),
        ("perstep:max_steps=7+cumulative", PerStep(7) + Cumulative()),
        ("accumulated:4", Accumulated(4)),
    ],
)
def test_kinds_are_read(text, stats):
    assert statistics_from_text(text) == stats


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("layer", "stats: expected kinds among batch, synced, .*, got 'layer'"),
        ("", "stats: expected kinds among .*, got ''"),
        ("ghost", "stats: ghost expected the arguments size, last, got ''"),
        ("ghost:32,keep,3", "stats: ghost expected the arguments size, last, got '32,keep,3'"),
        ("renorm:limit=3", "stats: renorm expected the arguments r_max, d_max, warmup, got 'limit=3'"),
        ("ghost:size=32,size=16", "stats: ghost expected size once, got 'size=32,size=16'"),
        ("frozen:affine=no", "Frozen: affine expected True or False, got 'no'"),
        ("renorm:r_max=much", "Renorm: r_max expected at least 1, got 'much'"),
        ("ghost:many", "Ghost: size expected an integer, got 'many'"),
        ("ghost:4+synced", "stats: expected kinds that go together, got Ghost"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_line(text, message):
    with pytest.raises(ValueError, match=message) as caught:
        statistics_from_text(text)
    assert "\n" not in str(caught.value)
