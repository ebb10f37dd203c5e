"""Tables in terminals of any width and in files: nothing is lost, and what fits looks as ever."""

import dataclasses
import io
import re
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from batchnorm.cli import bench, recalibrate, study, table
from batchnorm.cli.progress import ENDLESS, make_console
from batchnorm.study import prepare
from batchnorm.surgery import LayerChange, RecalibrationReport
from tests.records.test_bench import RECORD
from tests.report import synthetic
from tests.report.synthetic_verdicts import book
from tests.study import small

LONG = "0.backbone.layer1_downsample_projection"
WIDTHS = range(40, 200)


def show_run(console):
    table.show(console, synthetic.run(layers={"norm1": 16}), Path("runs/1"), None)


def show_recalibration(console):
    names = ("stage1.0.norm1", "stage1.0.norm2", f"{LONG}.1", f"{LONG}.2")
    layers = [LayerChange(name, 192.0, 3, 192, 0, 0.0056, 0.0, 0.133, 2.16) for name in names]
    layers[1] = dataclasses.replace(layers[1], unsettled=0.25)
    recalibrate._show(console, RecalibrationReport("layerwise", tuple(layers), {"2": "frozen"}))


def show_bench(console):
    records = [RECORD, dataclasses.replace(RECORD, case="forward+backward", ratio=0.5)]
    records += [dataclasses.replace(row, peer="copy") for row in records]
    records += [dataclasses.replace(row, layout="channels_last") for row in records]
    bench._show(console, tuple(records))


def show_verdicts(console):
    study._show(console, book(), Path("studies"))


def announce_studies(console):
    works = prepare([small.study(name="moving-average")], small.PLAN, Path("absent"), dry=True)
    study._announce(console, 14214.0, works, [7.0])


def printed(show, width):
    """What a terminal of this width gets."""
    screen = io.StringIO()
    show(Console(file=screen, force_terminal=True, color_system=None, width=width, highlight=False))
    return screen.getvalue()


def words(text):
    """The words, without the colons that only records have."""
    return set(re.sub(r":(?=\s)", "", text).split())


@pytest.mark.parametrize("show", [show_run, show_recalibration, show_bench, show_verdicts, announce_studies])
def test_no_character_is_cut_and_no_word_broken_but_names(show):
    whole = printed(show, ENDLESS)
    names = {line.split()[0] for line in whole.splitlines()} | {"claim-1", "c99-moving-average"}
    for width in WIDTHS:
        narrow = printed(show, width)
        assert not Counter("".join(whole.split())) - Counter("".join(narrow.split())), narrow
        assert words(whole) - words(narrow) <= names, narrow


def test_what_fits_is_a_table_with_numbers_at_the_right():
    rows = [("stem", "1.25", "12"), ("stage1.0.norm1", "0.5", "")]
    wanted = [
        "layer           ratio  count",
        "stem             1.25     12",
        "stage1.0.norm1    0.5       ",
    ]
    for width in (28, 80, ENDLESS):
        text = printed(lambda console: table.print_table(console, ("layer", "ratio", "count"), rows), width)
        assert text.splitlines() == wanted


def test_a_long_name_is_folded_beside_its_numbers():
    rows = [(f"{LONG}.1", "12,345.5"), (f"{LONG}.2", "0.5")]
    text = printed(lambda console: table.print_table(console, ("layer", "images a second"), rows), 40)
    assert [line.rstrip() for line in text.splitlines()] == [
        "layer                    images a second",
        "0.backbone.layer1_downs         12,345.5",
        "ample_projection.1",
        "0.backbone.layer1_downs              0.5",
        "ample_projection.2",
    ]


def test_a_number_is_never_cut_but_rows_become_records_of_what_they_have():
    titles = ("layer", "before", "after", "of all")
    rows = [(LONG, "1,234,567.5", "12,345,678", "100"), ("all", "", "", "9,999,999,999")]
    text = printed(lambda console: table.print_table(console, titles, rows), 40)
    assert text == (
        f"layer: {LONG}\nbefore: 1,234,567.5\nafter: 12,345,678\nof all: 100\n\n"
        "layer: all\nof all: 9,999,999,999\n\n"
    )


@pytest.mark.parametrize("show", [show_run, show_recalibration, show_bench, show_verdicts])
def test_a_file_gets_whole_lines_whatever_columns_says(monkeypatch, capsys, show):
    monkeypatch.setenv("COLUMNS", "40")
    show(make_console(False))
    assert capsys.readouterr().out == printed(show, ENDLESS)


def test_a_layer_that_did_not_settle_is_said():
    out = printed(show_recalibration, ENDLESS)
    assert out.count("not settled") == 1
    assert "not settled: stage1.0.norm2: the last round moved it by 0.25 sd" in out


def test_parameters_on_their_way_to_infinity_are_short():
    run = synthetic.run(seeds=(0,), layers={"norm1": 2})
    huge = tuple(dataclasses.replace(row, weight=row.weight and (0.5, -2.19e28)) for row in run.layers)
    out = printed(
        lambda console: table.show(console, dataclasses.replace(run, layers=huge), Path("runs/1"), None), 200
    )
    assert "batch norm1 gamma [0.5, -2.19e+28]\n" in out


def test_a_seed_that_diverged_is_left_out_and_said():
    out = printed(
        lambda console: table.show(
            console, synthetic.run(diverged=[("none", 1), ("batch", 0), ("batch", 1)]), Path("runs/1"), None
        ),
        width=200,
    )
    assert re.search(r"^none +[\d.]+ ± [\d.]+† ", out, re.MULTILINE)
    assert re.search(r"^batch +[\d.]+† ", out, re.MULTILINE)
    assert "† without seeds that diverged" in out
    assert "†" not in printed(show_run, width=200)
