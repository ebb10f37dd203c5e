"""The program ``batchnorm``: its commands, and what an error looks like.

Exit codes: 0 clean, 1 findings, 2 misuse, unreadable input or an optional package that is absent, 3 a fault
of ours, 130 interrupted, 141 left by the reader of the output. docs/environment.md says more.
"""

import io
import os
import sys
from typing import Annotated, Any, NoReturn

import typer

import batchnorm
from batchnorm.cli import bench, doctor, explain, export, fold, recalibrate, report, study, train
from batchnorm.records import NotInstalledError

__all__ = ["app", "main"]

app = typer.Typer(
    name="batchnorm",
    help="Batch normalization for PyTorch that you can read, trust and ship.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
# Typer carries click or, in later versions, a copy of it; this is that one's UsageError.
_UsageError: Any = typer.BadParameter.__mro__[1]
_INTERRUPTED = 130


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"batchnorm {batchnorm.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    pass


app.command("train", help=train.HELP)(train.command)
app.command("study", help=study.HELP)(study.command)
app.command("report", help=report.HELP)(report.command)
app.command("recalibrate", help=recalibrate.HELP)(recalibrate.command)
app.command("fold", help=fold.HELP)(fold.command)
app.command("export", help=export.HELP)(export.command)
app.command("doctor", help=doctor.HELP)(doctor.command)
app.command("explain", help=explain.HELP)(explain.command)
app.command("bench", help=bench.HELP)(bench.command)


def main() -> NoReturn:
    """Run the program; an error is one line on standard error, never a traceback.

    ``BATCHNORM_DEBUG=1`` lets exceptions through.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without ± is no reason to lose a run's end
    arguments = sys.argv[1:] or ["--help"]
    if os.environ.get("BATCHNORM_DEBUG"):
        sys.exit(app(arguments, standalone_mode=False) or 0)
    try:
        code = app(arguments, standalone_mode=False) or 0
        print(end="", flush=True)  # better now than at the interpreter's end
    except SystemExit as stop:
        # Typer and rich turn it into exit code 1, which has another meaning here.
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        _leave()
    except BrokenPipeError:
        _leave()
    except _UsageError as error:
        _fail(error.format_message(), 2)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except OSError as error:
        where = f": {os.fsdecode(error.filename)}" if error.filename else ""
        _fail(f"{error.strerror or error}{where}", 2)
    except (ValueError, RuntimeError, FloatingPointError, NotInstalledError) as error:
        _fail(str(error), 2)
    except Exception as error:
        _fail(f"{type(error).__name__}: {error} (a fault of ours; BATCHNORM_DEBUG=1 shows where)", 3)
    if code == _INTERRUPTED:  # so Typer says it too
        _fail("interrupted", code)
    sys.exit(code)


def _leave() -> NoReturn:
    """End as a program does that SIGPIPE kills: quietly, and the shell sees 128 + 13."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):  # what is still in a buffer would be written at the end
        os.dup2(nowhere, descriptor)
    sys.exit(141)


def _fail(message: str, code: int) -> NoReturn:
    print(f"batchnorm: error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
