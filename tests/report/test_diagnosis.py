"""The page of a diagnosis shows all there is, worst first, and lets no text become markup."""

import math
import re

import pytest

from batchnorm.records import Finding, Fix, LayerRecord
from batchnorm.report import render_diagnosis

pytest.importorskip("vl_convert", reason="draws")


def diagnosis(**changes):
    finding = Finding(
        "BN001",
        "stats-never-updated",
        "error",
        "a<b",
        "Mean & <b>variance</b>.",
        {"count": 0.0, "bias_of_layer": "0", "gap_ratio": 1.5},
        Fix("safe", "x<y"),
    )
    rows = [
        {"layer": name, "own": own, "prediction": None, "size": 0.5, "worst": 2 * (own or 0)}
        for name, own in (("first", 1.5), ("second", 40.0), ("third", 3.0))
    ]
    whole = {
        "findings": [finding.to_dict()],
        "withdrawn": [{**finding.to_dict(), "code": "BN027"}],
        "skipped": {"BN045": "needs a world"},
        "unseen": {"head": "its code cannot be traced"},
        "layers": rows,
        "explanation": "It begins <here>.",
        "batches": 20,
        "layers_seen": 3,
    }
    return {**whole, **changes}


def channels(name, mean=(0.0, 1.0)):
    return LayerRecord("batch", 0, 0, name, (), mean, (1.0, 2.0), (0.5, 0.5), (1.0, 1.0))


def test_layers_stand_worst_first():
    page = render_diagnosis("m.py:f", diagnosis(), [channels("first"), channels("second")])
    rows = re.findall(r'<th scope="row"><code>(\w+)</code>', page)
    assert rows == ["second", "third", "first"]
    assert re.findall(r"<h3><code>(\w+)</code>", page) == ["second", "first"]
    assert re.findall(r"--share: (\d+%)", page) == ["80%", "24%", "9%"]
    assert page.count("<svg") == 4


def test_counts_have_no_fraction():
    assert "Evidence: count 0, bias of layer 0, gap ratio 1.5</p>" in render_diagnosis("m", diagnosis(), [])


def test_no_text_becomes_markup():
    page = render_diagnosis("<script>", diagnosis(), [])
    for text in ("<script>", "<b>", "x<y", "a<b", "<here>"):
        assert text not in page
    assert "Mean &amp; &lt;b&gt;variance&lt;/b&gt;." in page


def test_what_was_taken_back_and_not_checked_is_said():
    page = render_diagnosis("m.py:f", diagnosis(), [])
    assert "Suspicions that were taken back: 1" in page
    assert "BN045: needs a world" in page
    assert "head: its code cannot be traced" in page


def test_a_channel_that_is_not_finite_is_left_out_and_counted():
    page = render_diagnosis("m.py:f", diagnosis(), [channels("first", (math.nan, 1.0))])
    assert "<h4>mean, without 1 that are not finite</h4>" in page


def test_without_findings_and_data_the_page_says_so():
    page = render_diagnosis("m.py:f", diagnosis(findings=[], layers=[], explanation="", batches=0), [])
    assert "<h1>no findings</h1>" in page
    assert "Nothing was found." in page
    assert "there were none" in page
    assert "channels" not in page.split("</style>")[1].lower()


def test_with_data_but_no_gaps_the_page_says_why():
    few = {"BN027": "needs 8 batches or more, got 5"}
    page = render_diagnosis("m.py:f", diagnosis(layers=[], batches=5, skipped=few), [])
    assert "<p>A gap needs 8 batches or more, got 5.</p>" in page
    page = render_diagnosis("m.py:f", diagnosis(layers=[]), [])
    assert "<p>No layer had a gap that could be measured.</p>" in page
    assert "there were none" not in page
