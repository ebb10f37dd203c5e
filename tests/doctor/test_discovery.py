"""A rule is one file; it needs a page, a test that fires and a near miss."""

import importlib
import json
from pathlib import Path

import pytest
from torch import nn

from batchnorm.doctor import diagnose
from batchnorm.doctor.rule import LAST, all_rules, chosen_rules
from batchnorm.doctor.rules import __path__ as rules_path

HERE = Path(__file__).parent
PAGES = HERE.parent.parent / "docs" / "rules"


def test_every_file_is_a_rule():
    files = [path for path in Path(rules_path[0]).glob("*.py") if path.stem != "__init__"]
    assert len(all_rules()) == len(files)


def test_the_catalogues_fifty_rules_are_there():
    assert {f"BN{number:03}" for number in range(1, 51)} <= set(all_rules())


@pytest.mark.parametrize("code", sorted(all_rules()))
def test_a_rule_has_page_firing_test_and_near_miss(code):
    tests = dir(importlib.import_module(f"tests.doctor.rules.test_{code.lower()}"))
    assert any(name.startswith("test_fires") for name in tests)
    assert any(name.startswith("test_is_silent") for name in tests)
    assert (PAGES / f"{code}.md").exists()


@pytest.mark.parametrize("code", sorted(all_rules()))
def test_a_rules_page_has_all_sections(code):
    page = all_rules()[code].page
    for section in ("Found by", "Severity:", "Fix:", "Mistaken for it:", "Reports:"):
        assert f"\n{section}" in page
    assert page.splitlines()[0].endswith(".")


@pytest.mark.parametrize("code", sorted(all_rules()))
def test_causes_that_explain_a_rule_exist(code):
    rule = all_rules()[code]
    assert code not in rule.explained_by
    assert set(rule.explained_by) <= set(all_rules())


@pytest.mark.parametrize("code", sorted(all_rules()))
def test_only_a_rule_that_mends_has_fixes_that_are_made(code):
    rule = all_rules()[code]
    if rule.mend is None:
        assert rule.fixes == ("advice",)
    else:
        assert {"safe", "consent"} & set(rule.fixes)


@pytest.mark.parametrize("code", sorted(code for code, rule in all_rules().items() if rule.mend))
def test_a_rules_findings_have_the_kinds_of_fix_that_it_declares(code):
    kept = json.loads((HERE / "golden.json").read_text())
    kinds = {one["fix"]["kind"] for found in kept.values() for one in found if one["code"] == code}
    assert kinds == set(all_rules()[code].fixes)


def test_a_kind_of_fix_that_is_not_declared_is_no_finding(monkeypatch):
    rule = all_rules()["BN014"]
    monkeypatch.setattr(rule.module, "FIXES", ("safe",))
    model = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1))
    with pytest.raises(AssertionError, match="BN014 declares no fix of kind consent"):
        diagnose(model)


def test_of_several_causes_the_earliest_comes_first():
    causes = (2, 7, 1, 34, 13, 12, 5, 33, 37, 26, 8, 30, 27)
    ranks = [all_rules()[f"BN{number:03}"].rank for number in causes]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == len(ranks)
    assert max(ranks) < LAST


def test_an_unknown_code_is_refused():
    with pytest.raises(ValueError, match=r"diagnose: rules expected codes as BN001, got 'BN999'"):
        chosen_rules(["bn001", "BN999"], ())
    assert list(chosen_rules(["bn001"], ())) == ["BN001"]
    assert "BN001" not in chosen_rules(None, ["bn001"])
