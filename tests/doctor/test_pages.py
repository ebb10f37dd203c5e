"""docs/rules/ is what the docstrings say."""

import importlib.util
from pathlib import Path

import pytest

from batchnorm.doctor.pages import page
from batchnorm.doctor.rule import all_rules

ROOT = Path(__file__).parent.parent.parent


def made():
    spec = importlib.util.spec_from_file_location("rule_pages", ROOT / "tools" / "rule_pages.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rule_pages()


def test_pages_are_those_of_the_docstrings():
    kept = {path.name: path.read_text() for path in (ROOT / "docs" / "rules").glob("*.md")}
    stale = [name for name, text in made().items() if kept.get(name) != text]
    assert not stale, f"python tools/rule_pages.py makes {', '.join(stale)} anew"
    assert kept.keys() == made().keys()


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "BN013",
            "TARGET --fix --consent BN013 -o mended.pt` mends it where a finding says `fix (consent)`.",
        ),
        ("BN001", "`batchnorm doctor TARGET --data DATA --fix --consent BN001 -o mended.pt` mends it."),
        ("BN005", "`batchnorm doctor TARGET --fix -o mended.pt` mends it."),
        (
            "BN006",
            "`batchnorm doctor TARGET --fix -o mended.pt` mends it where a finding says `fix (safe)`; ",
        ),
    ],
)
def test_a_page_ends_with_a_command_that_works(code, words):
    assert words in page(all_rules()[code]).splitlines()[-1]


def test_a_rule_that_does_not_mend_names_no_command():
    assert "--fix" not in page(all_rules()["BN018"])
