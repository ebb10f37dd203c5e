"""Findings are compared whole, with those kept in golden.json.

``GOLDEN=write pytest tests/doctor`` writes the file anew; read the difference before you commit it.
"""

import importlib
import json
import os
import re
from pathlib import Path

import pytest

GOLDEN = Path(__file__).with_name("golden.json")
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(\.\d+)?(e[-+]?\d+)?")
TOLERANCE = 0.05  # of numbers that go through a training, from one machine to the next


def _plain(report):
    """Findings as JSON, the numbers in their sentences replaced by #."""
    rows = [finding.to_dict() for finding in report.findings]
    for row in rows:
        row["message"] = NUMBER.sub("#", row["message"])
    return rows


def _same(one, other):
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, float):
        return one == pytest.approx(other, rel=TOLERANCE, abs=1e-3)
    return one == other


@pytest.fixture
def whole(request):
    """``whole(report)`` compares all findings of a report with the ones kept for this test."""

    def compare(report):
        name = request.node.nodeid.split("tests/doctor/")[-1]
        kept = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else {}
        found = _plain(report)
        if os.environ.get("GOLDEN") == "write":
            kept[name] = found
            GOLDEN.write_text(json.dumps(dict(sorted(kept.items())), indent=1, ensure_ascii=False) + "\n")
            return
        assert name in kept, f"{name} has no findings in {GOLDEN.name}"
        assert len(found) == len(kept[name])
        for one, other in zip(found, kept[name], strict=True):
            assert _same(one, other), f"{one}\nis not\n{other}"

    return compare


@pytest.fixture
def rules_may_fail():
    """For a test in which a rule is broken on purpose."""


@pytest.fixture(autouse=True)
def no_rule_fails(request, monkeypatch):
    """A rule that fails is only not checked; in a test, of a case or a healthy network too, it raises."""

    def fail(error):
        raise error

    if "rules_may_fail" not in request.fixturenames:
        monkeypatch.setattr(importlib.import_module("batchnorm.doctor.unchecked"), "error_line", fail)
