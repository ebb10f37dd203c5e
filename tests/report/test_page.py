"""The page as text: whole, small, in order, and safe whatever the run holds."""

import dataclasses
import json
import re
import sys
from html.parser import HTMLParser

import pytest

from batchnorm.report import write_report
from batchnorm.report.page import render_page
from tests.report import synthetic


class Outline(HTMLParser):
    """Levels of headings, tables without a caption, and ids, in the order of the page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.levels: list[int] = []
        self.tables = self.captions = 0
        self.ids: list[str] = []
        self.fetched: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        if re.fullmatch("h[1-6]", tag):
            self.levels.append(int(tag[1]))
        self.tables += tag == "table"
        self.captions += tag == "caption"
        self.ids += [given["id"]] if "id" in given else []
        if tag == "th":
            assert given["scope"] in ("row", "col")
        self.fetched += [given[name] for name in ("src", "href") if name in given]


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="run">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_report_is_one_whole_file(tmp_path):
    path = write_report(synthetic.run(), tmp_path / "new" / "run", pictures=False)
    assert path == tmp_path / "new" / "run" / "report.html"
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")


def test_headings_are_in_order_and_tables_have_captions(report):
    outline = Outline(report.read_text(encoding="utf-8"))
    assert outline.levels[0] == 1
    assert outline.levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.levels, outline.levels[1:], strict=False))
    assert outline.tables == outline.captions == 2 + 4 + 2
    assert len(outline.ids) == len(set(outline.ids))


def test_nothing_is_fetched(report):
    html = report.read_text(encoding="utf-8")
    assert all(address.startswith(("#", "data:")) for address in Outline(html).fetched)
    assert "default-src 'none'" in html


def test_a_deep_run_stays_under_3_mb_and_says_what_it_leaves_out():
    html = render_page(synthetic.deep(seeds=(0, 1), epochs=25))
    assert len(html.encode()) < 3_000_000
    assert re.search(r"the charts of channels hold 1 of 2 seeds, \d+ of 26 epochs", html)
    assert {row[2] for row in data_of(html)["channels"]["rows"]} >= {0, 25}


def test_a_long_run_stays_under_3_mb_and_says_what_it_leaves_out():
    run = synthetic.run(seeds=(0,))
    rows = [
        [dataclasses.replace(row, epoch=row.epoch + 10 * time) for time in range(300) for row in some]
        for some in (run.epochs, [row for row in run.layers if row.epoch])
    ]
    run = dataclasses.replace(run, epochs=tuple(rows[0]), layers=tuple(rows[1]))
    html = render_page(run)
    assert len(html.encode()) < 3_000_000
    assert re.search(r"loss by epoch; 1,\d\d\d of 3,000 epochs, to keep this page small\.", html)
    epochs = [row[2] for row in data_of(html)["epochs"]["rows"]]
    assert (min(epochs), max(epochs)) == (1, 3000)


def test_an_ordinary_run_leaves_nothing_out(report):
    html = report.read_text(encoding="utf-8")
    assert "To keep this page small" not in html
    data = data_of(html)
    assert len(data["epochs"]["rows"]) == 2 * 3 * 10
    assert len(data["quantiles"]["rows"]) == 2 * 3 * 11 * 4
    assert len(data["channels"]["rows"]) == 3 * 11 * 4


def test_no_value_can_close_the_script_that_holds_it():
    attack = "</script><!--<script>"
    html = render_page(synthetic.run(layers={attack: 2}, seeds=(0,), epochs=1, lr=attack, model=attack))
    assert data_of(html)["overview"] == [attack]
    assert html.count("<!--<script>") == 0


@pytest.mark.parametrize(("data", "marks"), [("embedded-sample", 1), ("fashion-mnist", 0)])
def test_the_embedded_sample_is_marked(data, marks):
    html = render_page(synthetic.run(data=data, seeds=(0,), epochs=1))
    assert html.count("EMBEDDED SAMPLE") == marks
    assert html.count('<body class="sample">') == marks


@pytest.mark.parametrize(
    ("arms", "title"),
    [
        (("none", "batch"), "LeNet with and without batch normalization"),
        (("none",), "LeNet without batch normalization"),
        (("batch", "torch"), "LeNet with batch normalization"),
    ],
)
def test_the_title_says_what_is_compared(arms, title):
    assert f"<h1>{title}</h1>" in render_page(synthetic.run(arms=arms, seeds=(0,), epochs=1))


def test_an_unfinished_run_says_so():
    assert "In progress: 32 of 60 epochs" in render_page(synthetic.unfinished())
    assert "In progress" not in render_page(synthetic.run(seeds=(0,), epochs=2))


def test_labels_tell_a_curve_in_words():
    html = render_page(synthetic.run(arms=("batch",), seeds=(0,)))
    run = synthetic.run(arms=("batch",), seeds=(0,))
    first, last = run.epochs[0].loss, run.epochs[-1].loss
    assert (
        f'aria-label="Line chart: Loss by epoch. batch: {first:.3f} at epoch 1, {last:.3f} at epoch 10."'
        in html
    )


def test_without_the_extra_the_message_names_it(monkeypatch, tmp_path):
    from batchnorm.report import vega

    vega.browser_bundle.cache_clear()
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(ImportError, match=r"^report: charts expected vl_convert .*'batchnorm\[train\]'$"):
        write_report(synthetic.run(seeds=(0,), epochs=1), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_old_report_survives_a_failure(tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(synthetic.run(seeds=(0,), epochs=1), tmp_path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("report.html", "old")]


def test_layers_of_an_arm_without_an_epoch_wait_for_it():
    run = synthetic.run(seeds=(0,), epochs=1)
    run = dataclasses.replace(run, epochs=tuple(row for row in run.epochs if row.arm == "none"))
    data = data_of(render_page(run))
    assert {row[0] for row in data["quantiles"]["rows"]} == {"none"}
    assert data["channels"]["rows"] == []
