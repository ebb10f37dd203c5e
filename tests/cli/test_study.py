"""``batchnorm study`` and ``batchnorm report`` as a person uses them."""

import contextlib
import json
import socket
import subprocess
import sys

import pytest

from batchnorm.records import read_verdicts
from batchnorm.study import prepare, run_studies
from tests.cli.test_train import run
from tests.study import small


def test_a_study_says_what_it_costs_then_its_verdict_and_becomes_a_book(tmp_path):
    first = run("study", "moving-average", "--jobs", "1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""
    lines = first.stdout.splitlines()
    assert lines[0].split() == ["study", "trials", "to", "do", "about"]
    assert lines[1].split()[:3] == ["c07-moving-average", "7", "7"]
    assert any(line.startswith("    against: ") for line in lines)
    assert "c07 moving-average: holds" in lines
    assert lines[-1] == "records studies"
    again = run("study", "--resume", "--jobs", "1", "--json", cwd=tmp_path)
    printed = json.loads(again.stdout)
    assert printed["directory"] == "studies"
    assert [record["verdict"] for record in printed["studies"]] == ["holds"]
    assert read_verdicts(tmp_path / "studies")[0].trials == 7
    book = run("report", "studies", cwd=tmp_path)
    assert book.stdout == "report  studies/site/index.html\n"
    assert (tmp_path / "studies" / "site" / "c07-moving-average.html").is_file()


def test_all_are_announced_and_nothing_runs_dry(tmp_path):
    result = run("study", "--dry-run", "--seeds", "2", cwd=tmp_path)
    names = [
        line.split("-")[0] for line in result.stdout.splitlines() if line[:1] == "c" and line[3:4] == "-"
    ]
    assert names == [f"c{number:02}" for number in range(1, 15)]
    assert not list(tmp_path.iterdir())  # nor is there a plan to resume


def test_a_plan_that_somebody_changed_is_refused(tmp_path):
    (tmp_path / "studies").mkdir()
    (tmp_path / "studies" / "plan.json").write_text('{"names": "all", "profile": "quick", "seeds": 3}')
    result = run("study", "--resume", cwd=tmp_path)
    assert result.returncode == 2
    assert "resume expected a list of names, a profile and seeds in studies/plan.json, got" in result.stderr


@pytest.mark.parametrize("directories", [("run",), ("studies", "more")])
def test_a_site_is_made_of_one_directory_of_studies(tmp_path, directories):
    for name in directories:
        (tmp_path / name).mkdir()
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run" / "config.json").write_text("{}")
    result = run("report", *directories, "-o", "site", cwd=tmp_path)
    assert result.returncode == 2
    words = f"out expected one directory of studies to make a site of, got {', '.join(directories)}"
    assert words in result.stderr
    assert not (tmp_path / "site").exists()


def test_a_run_gets_its_page(tmp_path):
    small = ["--epochs", "1", "--train-images", "300", "--recalibration-images", "300", "--arms", "none"]
    run("train", *small, "--batch-size", "100", "--out", "here", cwd=tmp_path)
    (tmp_path / "here" / "report.html").unlink()
    result = run("report", "here", "--json", cwd=tmp_path)
    assert json.loads(result.stdout) == {"pages": ["here/report.html"]}
    assert (tmp_path / "here" / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["study", "c77"], "study: names expected all or some of c01-convergence, "),
        (["study", "--profile", "slow"], "study: profile expected quick or full, got 'slow'"),
        (["study", "c07", "--seeds", "0"], "study: seeds expected an integer >= 1, got 0"),
        (
            ["study", "c07", "--seeds", "9" * 20],
            "study: seeds expected at most 1000, got 99999999999999999999",
        ),
        (["study", "c07", "--jobs", "0"], "study: jobs expected an integer >= 1, got 0"),
        (["study", "c07", "--executor", "abacus"], "study: executor expected one of local, dask, ray, got"),
        (
            ["study", "c07", "--resume"],
            "study: names and seeds expected from the last run with --resume, got",
        ),
        (["study", "--resume"], "study: resume expected studies with plan.json in studies, got none"),
        (["study", "c07", "--out", "/proc/nowhere"], "study: out expected a directory that can be written"),
        (["report", "nowhere"], "report: directories expected a run or studies, got nowhere with neither"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = run(*arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


@contextlib.contextmanager
def held(cwd, jobs):
    """A study that writes to ``studies``: its process, and the connection that holds its first trial."""
    code = (
        "import sys, batchnorm.study as s; from batchnorm.cli import main; from tests.study import small\n"
        "door = int(sys.argv.pop()); s.choose_studies = lambda names: (small.study(door=door),); main()"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        words = ["study", "c07", "--out", str(cwd / "studies"), "--jobs", str(jobs)]
        command = [sys.executable, "-c", code, *words, str(server.getsockname()[1])]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            connection, _ = server.accept()
            with connection:
                yield process, connection
        finally:
            process.kill()
            process.wait()


def files(directory):
    found = (path for path in directory.rglob("*") if path.is_file())
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


@pytest.mark.parametrize("arguments", [("c07", "--jobs", "1"), ("--resume",)])
def test_a_second_study_is_refused_while_the_first_writes(tmp_path, arguments):
    with held(tmp_path, jobs=1) as (process, connection):
        before = files(tmp_path)
        second = run("study", *arguments, cwd=tmp_path)
        assert second.returncode == 2
        assert second.stdout == ""
        assert second.stderr == (
            "batchnorm: error: study: out expected a directory that no other study writes, "
            f"got studies (process {process.pid})\n"
        )
        assert files(tmp_path) == before
        connection.close()
        assert process.wait() == 0
    assert len(small.lines(tmp_path / "studies" / "c99-small" / "trials.jsonl")) == 6


def test_who_only_reads_need_not_wait_for_a_study(tmp_path):
    other = small.study(name="other")
    run_studies(prepare([other], small.PLAN, tmp_path / "studies"), small.PLAN, small.Silent())
    with held(tmp_path, jobs=1):
        assert run("study", "c07", "--dry-run", cwd=tmp_path).returncode == 0
        assert run("report", "studies", cwd=tmp_path).stdout == "report  studies/site/index.html\n"


def test_a_killed_study_holds_nobody_up_though_its_workers_live_on(tmp_path):
    with held(tmp_path, jobs=2) as (process, connection):
        process.kill()
        process.wait()
        second = run("study", "c07", "--jobs", "2", cwd=tmp_path)
        assert second.returncode == 0, second.stderr
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):  # the worker still waits at its end
            connection.recv(1)
