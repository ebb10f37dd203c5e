"""The tables in numbers."""

import dataclasses
import math
import re
import statistics

from batchnorm.records import FaultRecord, Finding, Fix
from batchnorm.report import tables
from tests.report import synthetic


def rows(html: str) -> list[list[str]]:
    """Text of each row's cells."""
    return [
        [re.sub("<[^>]*>", "", cell).strip() for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        for row in re.findall(r"<tr>(.*?)</tr>", html)
    ]


def test_results_are_the_last_epochs_mean_and_deviation():
    run = synthetic.run(epochs=4)
    last = [row.loss for row in run.epochs if row.arm == "batch" and row.epoch == 4]
    head, loss, *others = rows(tables.results_table(run))
    assert head == ["", "none no normalization", "batch batch normalization"]
    assert loss[0] == "loss"
    assert loss[2] == f"{statistics.mean(last):.3f} ± {statistics.stdev(last):.3f}"
    assert [row[0] for row in others] == [
        "train acc",
        "test acc, running statistics",
        "test acc, recalibrated",
        "examples/sec",
    ]
    assert re.fullmatch(r"1\d,\d{3} ± \d+", others[-1][1])


def test_one_seed_has_no_deviation():
    run = synthetic.run(seeds=(7,), epochs=2)
    assert rows(tables.results_table(run))[1][1] == f"{run.curve('none', 7)[-1].loss:.3f}"
    assert "standard deviation" not in tables.results_table(run)


def test_a_diverged_seed_is_left_out_and_said():
    run = synthetic.run(diverged=[("none", 1)])
    html = tables.results_table(run)
    finite = [run.curve("none", seed)[-1].loss for seed in (0, 2)]
    assert rows(html)[1][1] == f"{statistics.mean(finite):.3f} ± {statistics.stdev(finite):.3f}†"
    assert "† Without seeds that diverged (none: 1 of 3 seeds)" in html
    everywhere = tables.results_table(synthetic.run(diverged=[("none", seed) for seed in (0, 1, 2)]))
    assert rows(everywhere)[1][1] == "diverged"
    assert "†" not in everywhere


def test_each_seed_has_its_row():
    assert len(rows(tables.seeds_table(synthetic.run()))) == 1 + 2 * 3


def test_epochs_that_an_arm_has_not_reached_are_blank():
    html = tables.epochs_table(synthetic.unfinished(), "loss", "Loss")
    assert rows(html)[0] == ["epoch", "none", "batch"]
    assert rows(html)[3][2] == "-"
    assert rows(html)[2][2] != "-"


def test_settings_are_flat_and_escaped():
    html = tables.settings_table(
        "Settings", {"a": {"b": [1, "x"], "c": None}, "<i>": "</table>", "d": True, "e": [[1], 2]}
    )
    assert rows(html)[1:] == [
        ["a.b", "1, x"],
        ["a.c", "none"],
        ["&lt;i&gt;", "&lt;/table&gt;"],
        ["d", "true"],
        ["e", "[[1], 2]"],
    ]


def test_infinite_is_as_diverged_as_nan():
    run = synthetic.run(arms=("none",), seeds=(0,), epochs=1)
    run = dataclasses.replace(run, epochs=(dataclasses.replace(run.epochs[0], loss=math.inf),))
    assert rows(tables.results_table(run))[1][1] == "diverged"


def test_faults_have_a_row_each_and_their_text_is_no_markup():
    finding = Finding("BN012", "slow", "warn", "a<b", "Slow <i>.", {}, Fix("safe", "x & y"))
    table = tables.faults_table([FaultRecord("batch", 3, 2, finding)])
    assert "warn BN012 slow" in table
    assert "a&lt;b" in table
    assert "Slow &lt;i&gt;. Fix: x &amp; y." in table
    assert tables.faults_table([]) == ""
