"""What the book says comes from the records, all of it and safely."""

import dataclasses
import json
import math
import re

from batchnorm.records import Figure
from batchnorm.report import write_book
from batchnorm.report.book import effect_words
from batchnorm.report.figures import panels, series_styles, spec_of
from batchnorm.report.theme import light
from tests.report import synthetic_verdicts
from tests.report.synthetic_verdicts import book, curve, effect, verdict


def text(path):
    return " ".join(re.sub(r"<[^>]+>", " ", path.read_text()).split())


def test_the_index_lists_every_claim_with_its_verdict(tmp_path):
    index = text(write_book(book(), tmp_path))
    assert "Holds: 1; holds in part: 1; does not hold here: 1; not measured: 1." in index
    assert "240 trials, 21 min of a processor" in index
    assert "C01 Claim number 1. holds 1 of 2 steps to 80 %, own best rates: 2.7 × (2.2 to 3.3)" in index


def test_a_page_has_what_was_stated_before_and_what_came_out(tmp_path):
    write_book(book(), tmp_path)
    page = text(tmp_path / "c01-claim-1.html")
    for words in (
        "It does what it says.",
        "An interval that reaches 1.",
        "steps to 80 %, own best rates met 2.7 × 2.2 to 3.3 above 1 × t of logarithms, n = 3",
        "a second effect not met 0.9 × 0.8 to 1.1 above 1 × t of logarithms, n = 3",
        "The best rate is 0.1.",
        "batchnorm study claim-1 --profile full --seeds 3",
        "none 0.01 0.4 0.35 0.45",
        "A processor",
    ):
        assert words in page


def test_a_bound_is_told_as_one(tmp_path):
    bound = effect(method="t of logarithms, at least")
    index = text(write_book([verdict(1, effects=(bound,))], tmp_path))
    assert "steps to 80 %, own best rates: ≥ 2.7 × (2.2 to 3.3)" in index
    assert "≥ 2.7 × 2.2 to 3.3 above 1 × t of logarithms, at least, n = 3" in text(
        tmp_path / "c01-claim-1.html"
    )


def test_where_there_is_no_chance_it_tells_what_every_value_is(tmp_path):
    exact = effect(
        method="exact", side="below", bound=1.0, unit="", values=(0.0, 0.5), mean=0.5, low=0.0, high=0.5
    )
    index = text(write_book([verdict(1, effects=(exact,))], tmp_path))
    assert "steps to 80 %, own best rates: every value 0 to 0.5" in index
    assert "every value 0 to 0.5 - below 1 exact, n = 2" in text(tmp_path / "c01-claim-1.html")
    equal = dataclasses.replace(exact, values=(6.0, 6.0), mean=6.0, low=6.0, high=6.0)
    assert effect_words(equal) == "every value 6"


def test_what_was_not_measured_has_no_numbers(tmp_path):
    index = text(write_book(book(), tmp_path))
    assert "not measured 0 of 1 steps to 80 %, own best rates: not measured" in index
    assert "own best rates not measured - - above 1 × t of logarithms, n = 0" in text(
        tmp_path / "c04-claim-4.html"
    )


def test_every_page_links_to_its_neighbours(tmp_path):
    write_book(book(), tmp_path)
    links = re.findall(r'rel="(prev|next)" href="([^"]+)"', (tmp_path / "c02-claim-2.html").read_text())
    assert links == [("prev", "c01-claim-1.html"), ("next", "c03-claim-3.html")]
    assert 'rel="prev"' not in (tmp_path / "c01-claim-1.html").read_text()
    assert 'rel="next"' not in (tmp_path / "c04-claim-4.html").read_text()
    for page in tmp_path.glob("*.html"):
        for target in re.findall(r'(?:href|src)="([^"#:]+)"', page.read_text()):
            assert (tmp_path / target).is_file(), target


def test_a_book_on_the_sample_says_so(tmp_path):
    write_book([verdict(1, data="embedded-sample")], tmp_path)
    assert "EMBEDDED SAMPLE" in text(tmp_path / "index.html")
    assert "EMBEDDED SAMPLE" in text(tmp_path / "c01-claim-1.html")
    write_book([verdict(1)], tmp_path)
    assert "EMBEDDED SAMPLE" not in text(tmp_path / "index.html")


def test_words_cannot_break_out(tmp_path):
    attack = "</script><script>alert(1)</script>"
    rows = ({"series": attack, "x": attack, "mean": 1.0, "low": 0.0, "high": 2.0},)
    figure = Figure("f", attack, "dot", attack, attack, attack, rows, x_scale="nominal")
    write_book(
        [verdict(1, claim=attack, notes=(attack,), effects=(effect(text=attack),), figures=(figure,))],
        tmp_path,
    )
    for name in ("index.html", "c01-claim-1.html"):
        assert "<script>alert" not in (tmp_path / name).read_text()


def test_what_an_axis_cannot_show_is_left_out():
    rows = (
        {"series": "none", "x": 1, "mean": math.nan, "low": 0.1, "high": 0.2},
        {"series": "none", "x": 2, "mean": 0.1, "low": -0.1, "high": math.inf},
        {"series": "none", "x": 3, "mean": 0.0, "low": 0.0, "high": 0.0},
    )
    shown = panels(curve(rows=rows, y_scale="log"))[""]
    assert shown == [{"series": "none", "x": 2, "mean": 0.1, "low": 0.1, "high": 0.1}]


def test_an_interval_that_leaves_a_logarithmic_axis_goes_to_its_end():
    rows = (
        {"series": "none", "x": 1, "mean": 0.5, "low": -0.1, "high": 1.1},
        {"series": "none", "x": 2, "mean": 0.3, "low": 0.2, "high": 0.4},
    )
    assert [row["low"] for row in panels(curve(rows=rows, y_scale="log"))[""]] == [0.2, 0.2]
    assert [row["low"] for row in panels(curve(rows=rows))[""]] == [-0.1, 0.2]


def test_a_series_that_a_chart_cannot_show_is_named_there(tmp_path):
    figure = curve(("before", "after"), y_scale="log")
    lost = [
        {**row, "mean": math.inf} if row["facet"] == "after" and row["series"] == "none" else row
        for row in figure.rows
    ]
    write_book([verdict(1, figures=(dataclasses.replace(figure, rows=tuple(lost)),))], tmp_path)
    page = text(tmp_path / "c01-claim-1.html")
    assert page.count("Not drawn") == 1
    assert "after Not drawn, for want of a number that the axes can show: none." in page


def test_no_two_series_look_the_same():
    rows = tuple({"series": f"momentum {i}"} for i in range(12))
    styles = series_styles(curve(rows=rows))
    assert len({json.dumps(style) for style in styles.values()}) == 12


def test_specifications_are_those_of_the_figure():
    spec = spec_of(synthetic_verdicts.dots(), light)
    assert spec["layer"][1]["encoding"]["x"]["sort"] == ["zeros", "xavier", "10"]
    assert spec_of(curve(), light)["layer"][1]["encoding"]["x"]["scale"]["type"] == "log"
