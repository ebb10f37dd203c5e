"""docs/rules/ is what the docstrings say."""

import importlib.util
from pathlib import Path

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
