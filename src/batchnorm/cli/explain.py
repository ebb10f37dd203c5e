"""``batchnorm explain``: a rule's page."""

from typing import Annotated

import typer

__all__ = ["HELP", "command"]

HELP = """Print what a rule of the doctor means: what is wrong, how it is found, what mends it and what is
mistaken for it. Without a code, list all rules."""


def command(code: Annotated[str | None, typer.Argument(help="As BN013.")] = None) -> None:
    """Print the page."""
    from batchnorm.doctor.pages import index, page
    from batchnorm.doctor.rule import chosen_rules

    if code is None:
        print(index(), end="")
        return
    (rule,) = chosen_rules([code], ()).values()
    print(page(rule), end="")
