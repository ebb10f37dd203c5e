"""What an error looks like, and its exit code."""

import os
import signal
import subprocess
import sys

import pytest

from tests.cli.test_train import SMALL, run

EXTRA = "pip install 'batchnorm[train]'"


def run_without(packages, *arguments, cwd):
    """The program where these packages are not installed."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({packages}))\nfrom batchnorm.cli import main; main()"
    )
    return subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize(
    ("packages", "arguments", "message"),
    [
        (["joblib"], ["study", "c07", "--jobs", "2"], f"study: jobs above 1 expected joblib to be {EXTRA}"),
        (
            ["distributed"],
            ["study", "c07", "--executor", "dask"],
            "study: executor dask expected distributed to be pip install 'dask[distributed]'",
        ),
        (
            ["ray"],
            ["study", "c07", "--executor", "ray", "--jobs", "1"],
            "study: executor ray expected ray to be pip install ray",
        ),
        (["vl_convert"], [*SMALL, "--watch"], f"report: charts expected vl_convert to be {EXTRA}"),
    ],
)
def test_a_missing_package_is_one_line_and_exit_code_2_before_anything_is_written(
    tmp_path, packages, arguments, message
):
    result = run_without(packages, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr == (
        f"batchnorm: error: {message.replace('to be pip', 'to be installed, got none; pip')}\n"
    )
    assert not list(tmp_path.iterdir())


def test_what_needs_no_extra_goes_without(tmp_path):
    extras = ["joblib", "pooch", "tensorboard", "vl_convert"]
    study = run_without(extras, "study", "c07", "--jobs", "1", "--seeds", "1", cwd=tmp_path)
    assert study.returncode == 0, study.stderr
    assert run_without(extras, "study", "c07", "--jobs", "2", "--dry-run", cwd=tmp_path).returncode == 0
    train = run_without(extras, *SMALL, "--arms", "batch", "--out", "here", cwd=tmp_path)
    assert train.returncode == 0
    missing = "report: charts expected vl_convert to be installed, got none; "
    assert f"! no report: {missing}{EXTRA}\n" in train.stderr
    report = run_without(extras, "report", "here", cwd=tmp_path)
    assert report.returncode == 2
    assert report.stderr == f"batchnorm: error: {missing}{EXTRA}\n"


def report_that_raises(error, cwd):
    """``batchnorm report`` of a run whose reading raises."""
    code = (
        "import batchnorm.cli.report as r\n"
        f"def fail(directory): raise {error}\n"
        "r.read_run = fail\n"
        "from batchnorm.cli import main; main()"
    )
    (cwd / "run").mkdir()
    (cwd / "run" / "config.json").write_text("{}")
    command = [sys.executable, "-c", code, "report", "run"]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


@pytest.mark.parametrize("error", ["ImportError('cannot import name')", "TypeError('not callable')"])
def test_another_error_is_a_fault_of_ours(tmp_path, error):
    result = report_that_raises(error, tmp_path)
    kind, words = error.removesuffix("')").split("('")
    assert result.returncode == 3
    assert result.stderr == (
        f"batchnorm: error: {kind}: {words} (a fault of ours; BATCHNORM_DEBUG=1 shows where)\n"
    )


def test_the_variable_for_debugging_shows_where(tmp_path):
    result = run("report", "nowhere", cwd=tmp_path, BATCHNORM_DEBUG="1")
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback (most recent call last):")


def unread(arguments, cwd):
    """The program whose standard output goes to a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        command = [sys.executable, "-m", "batchnorm", *arguments]
        return subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, cwd=cwd)
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    "arguments", [["--help"], ["explain"], ["explain", "BN001"], ["study", "c07", "--dry-run"]]
)
def test_output_that_nobody_reads_ends_the_program_quietly(tmp_path, arguments):
    result = unread(arguments, tmp_path)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_training_whose_table_nobody_reads_is_kept(tmp_path, more):
    result = unread([*SMALL, "--arms", "none", "--out", "here", *more], tmp_path)
    assert (result.returncode, result.stderr) == (128 + signal.SIGPIPE, "")
    assert (tmp_path / "here" / "summary.json").is_file()
    assert (tmp_path / "here" / "report.html").is_file()


@pytest.mark.parametrize(("error", "status", "words"), [
    ("KeyboardInterrupt", 130, "interrupted"),
    ("OSError(28, 'No space left on device', b'here')", 2, "No space left on device: here"),
])  # fmt: skip
def test_what_ends_a_command_is_said_in_one_line(tmp_path, error, status, words):
    result = report_that_raises(error, tmp_path)
    assert (result.returncode, result.stderr) == (status, f"batchnorm: error: {words}\n")


def test_rules_have_their_words_without_docstrings():
    assert run("explain", "BN013", PYTHONOPTIMIZE="2").stdout == run("explain", "BN013").stdout != ""
