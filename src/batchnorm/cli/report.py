"""Writing the report from a command, where what draws it is installed."""

from pathlib import Path

from batchnorm.cli.progress import warn
from batchnorm.records import RunRecord

__all__ = ["write"]


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
