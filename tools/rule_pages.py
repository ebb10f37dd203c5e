"""Write docs/rules/ from the rules' docstrings; a test fails if a page is stale."""

import argparse
from pathlib import Path

from batchnorm.doctor.pages import index, page
from batchnorm.doctor.rule import all_rules

FOLDER = Path(__file__).parent.parent / "docs" / "rules"


def rule_pages() -> dict[str, str]:
    """Texts by file name."""
    return {"README.md": index(), **{f"{code}.md": page(rule) for code, rule in all_rules().items()}}


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name, text in rule_pages().items():
        (FOLDER / name).write_text(text)
