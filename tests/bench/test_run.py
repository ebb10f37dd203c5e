"""The parent's side; the workers are small programs of the tests."""

import contextlib
import os
import sys

import pytest

from batchnorm.bench import run_bench
from tests.bench.plans import plan
from tests.records.test_bench import RECORD


def replace_worker(monkeypatch, code):
    monkeypatch.setattr("batchnorm.bench.run.COMMAND", [sys.executable, "-c", code])


ANSWER = f"""
import json, os, sys
job = json.load(sys.stdin)
row = {RECORD.to_dict()!r}
row |= {{"threads": job["threads"], "huge_pages": job["huge_pages"]}}
row |= {{"case": job["plan"]["cases"][0], "backend": os.environ.get("THP_MEM_ALLOC_ENABLE", "not set")}}
print(json.dumps(row), flush=True)
"""


@pytest.mark.parametrize("inherited", [None, "0", "1"])
def test_a_worker_for_each_number_of_threads_and_setting_of_huge_pages(monkeypatch, inherited):
    replace_worker(monkeypatch, ANSWER)
    if inherited is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE", raising=False)
    else:
        monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", inherited)
    rows = list(run_bench(plan(threads=(1, 3), huge_pages=(True, False))))
    assert [(row.threads, row.huge_pages, row.backend) for row in rows] == [
        (1, True, "1"),
        (1, False, "not set"),
        (3, True, "1"),
        (3, False, "not set"),
    ]
    assert rows[0].case == "relu"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("print('noise', file=sys.stderr); sys.exit('Error: last words')", "Error: last words"),
        ("os.abort()", "exit status -6"),
    ],
)
def test_a_worker_that_dies_is_one_clear_error_after_its_records(monkeypatch, code, words):
    replace_worker(monkeypatch, f"{ANSWER}\n{code}")
    rows = run_bench(plan())
    next(rows)
    with pytest.raises(RuntimeError, match=f"^bench: worker expected to finish, got {words}$"):
        next(rows)


def test_closing_ends_the_worker(monkeypatch, tmp_path):
    pid_file = tmp_path / "pid"
    code = "import time; time.sleep(600)"
    answer = ANSWER.replace("print(", f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); print(")
    replace_worker(monkeypatch, f"{answer}\n{code}")
    with contextlib.closing(run_bench(plan())) as rows:
        next(rows)
        os.kill(int(pid_file.read_text()), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
