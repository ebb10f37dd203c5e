"""``batchnorm report``, and writing a run's report from another command."""

import json
from pathlib import Path
from typing import Annotated

import typer

from batchnorm.cli.progress import make_console, warn
from batchnorm.records import RunRecord, read_run, read_verdicts

__all__ = ["HELP", "command", "write"]

HELP = """Make pages from records: of training runs a page each, of studies a small site.

Nothing is computed anew. A run's report.html stands beside its records; the studies' index.html in a
directory of its own. Both work offline."""

Setting = typer.Option


def command(
    directories: Annotated[
        list[Path], typer.Argument(help="Runs of batchnorm train, or a directory of batchnorm study.")
    ],
    out: Annotated[
        Path | None,
        Setting("--out", "-o", help="Directory of the studies' site; DIRECTORY/site if not given."),
    ] = None,
    as_json: Annotated[
        bool, Setting("--json", help="Print the pages' paths as JSON and nothing else.")
    ] = False,
) -> None:
    """Write the pages and say where they are."""
    from batchnorm.report import write_book, write_report

    if out is not None and (len(directories) > 1 or (directories[0] / "config.json").is_file()):
        got = ", ".join(map(str, directories))
        raise ValueError(f"report: out expected one directory of studies to make a site of, got {got}")
    pages = []
    for directory in directories:
        if (directory / "config.json").is_file():
            pages.append(write_report(read_run(directory), directory))
        elif any(directory.glob("*/verdict.json")):
            pages.append(write_book(read_verdicts(directory), out or directory / "site"))
        else:
            raise ValueError(f"report: directories expected a run or studies, got {directory} with neither")
    if as_json:
        print(json.dumps({"pages": list(map(str, pages))}))
    for page in pages:
        make_console(as_json).print(f"report  {page}", soft_wrap=True)


def write(run: RunRecord, directory: Path) -> Path | None:
    """Write the run's page and pictures; say what to install if that is missing.

    Args:
        run: The run.
        directory: Where to.
    """
    from batchnorm.report import write_report

    try:
        return write_report(run, directory)
    except ImportError as error:
        warn(f"no report: {error}")
        return None
