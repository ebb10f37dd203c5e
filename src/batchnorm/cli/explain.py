"""``batchnorm explain``: a rule's page, or the list of rules."""

from typing import Annotated

import typer

from batchnorm.cli.progress import make_console
from batchnorm.cli.table import print_table

__all__ = ["HELP", "command"]

HELP = """Print what a rule of the doctor means: what is wrong, how it is found, what mends it and what is
mistaken for it. Without a code, list all rules."""


def command(code: Annotated[str | None, typer.Argument(help="As BN013.")] = None) -> None:
    """Print the page or the list."""
    from batchnorm.doctor.pages import page, summaries
    from batchnorm.doctor.rule import all_rules

    if code is None:
        rows = [(code, name, what.replace("``", "")) for code, name, what in summaries()]
        print_table(make_console(False), ("code", "name", "what is wrong"), rows, left=3)
        return
    rule = all_rules().get(code.upper())
    if rule is None:
        raise ValueError(f"explain: code expected one of the rules, as BN013, got {code!r}")
    print(page(rule), end="")
