"""What travels inside the page: rounding, missing numbers, thinning."""

import json
import math

import pytest

from batchnorm.report import payload
from tests.report import synthetic


def test_numbers_have_five_digits_and_what_is_not_finite_is_null():
    run = synthetic.run(arms=("none",), seeds=(0,), epochs=3, diverged=[("none", 0)])
    rows = payload.objects(payload.epoch_table(run.epochs))
    assert rows[0]["loss"] == pytest.approx(run.epochs[0].loss, rel=1e-4)
    assert len(repr(rows[0]["loss"]).replace(".", "").lstrip("0")) <= 5
    assert math.isnan(run.epochs[2].loss)
    assert rows[2]["loss"] is None
    assert '"rows":[["none",0,1,' in payload.embed(payload.epoch_table(run.epochs))


def test_embedded_json_reads_back_and_holds_no_tag():
    value = {"a": "<b>&</script>", "c": [1.5, None, "é"]}
    assert "<" not in payload.embed(value)
    assert json.loads(payload.embed(value)) == value


def test_layers_without_normalization_have_quantiles_but_no_channels():
    run = synthetic.run(seeds=(0,), epochs=1)
    assert {row["arm"] for row in payload.objects(payload.quantile_table(run.layers))} == {"none", "batch"}
    assert {row["arm"] for row in payload.objects(payload.channel_table(run.layers))} == {"batch"}


def kept(table, column):
    return sorted({row[column] for row in payload.objects(table)})


def test_seeds_go_first_then_epochs_then_layers():
    run = synthetic.run(epochs=8)
    sizes = [
        payload.channel_table(run.layers, budget) for budget in (10**7, 150_000, 60_000, 25_000, 5_000, 10)
    ]
    whole, one_seed, fewer_epochs, fewest, one_layer, nothing = sizes
    assert whole["left_out"] == ""
    assert one_seed["left_out"] == "1 of 3 seeds"
    assert kept(one_seed, "seed") == [0]
    assert kept(one_seed, "epoch") == list(range(9))
    assert kept(fewer_epochs, "epoch")[0] == 0
    assert kept(fewer_epochs, "epoch")[-1] == 8
    assert 2 < len(kept(fewer_epochs, "epoch")) < 9
    assert len(kept(fewer_epochs, "layer")) == 4
    assert kept(fewest, "epoch") == [0, 8]
    assert len(kept(one_layer, "layer")) < 4
    assert nothing["rows"] == []
    assert nothing["left_out"] == "nothing"
    for table, budget in zip(sizes, (10**7, 150_000, 60_000, 25_000, 5_000, 10), strict=True):
        assert len(payload.embed(table["rows"])) <= budget + 2  # the outer brackets


@pytest.mark.parametrize(
    ("count", "spread"), [(1, (9,)), (2, (0, 9)), (4, (0, 3, 6, 9)), (99, tuple(range(10)))]
)
def test_spread_is_even_and_keeps_the_ends(count, spread):
    assert payload.spread(range(10), count) == spread


def test_a_deep_network_is_shown_by_six_layers():
    run = synthetic.deep(seeds=(0,), epochs=1)
    assert payload.overview(run) == tuple(f"blocks.{i}.norm" for i in (0, 22, 43, 65, 86, 108))
    assert payload.overview(synthetic.run(epochs=1)) == ("norm1", "norm2", "norm3", "norm4")
