"""Trials run once, side by side, whatever happens to some of them or to the whole."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from batchnorm.records import TrialRecord, read_records, read_verdicts
from batchnorm.study import prepare, run_studies
from tests.study import small
from tests.study.small import PLAN, Silent, lines


def run(study, directory, plan=PLAN, **options):
    observer = Silent()
    verdicts = run_studies(prepare([study], plan, directory), plan, observer, **options)
    return verdicts[0], observer


def timeless(path):
    """The records of a directory without the times, which nobody can repeat."""
    rows = read_records(path / "c99-small" / "trials.jsonl", TrialRecord)
    return [dataclasses.replace(row, seconds=0, cpu_seconds=0) for row in rows]


def test_a_study_ends_with_a_record_a_trial_and_a_verdict(tmp_path):
    verdict, observer = run(small.study(), tmp_path)
    assert verdict.verdict == "holds in part"
    assert [effect.met for effect in verdict.effects] == [True, False]
    assert verdict.trials == 6
    assert verdict.notes == ("3 moved",)
    assert verdict.command == "batchnorm study small --profile quick --seeds 3"
    assert len(observer.trials) == 6
    assert read_verdicts(tmp_path) == (verdict,)
    rows = timeless(tmp_path)
    assert [(row.settings["shift"], row.seed) for row in rows] == [
        (s, k) for s in (0.0, 1.0) for k in range(3)
    ]
    assert {row.result["threads"] for row in rows} == {1}


def test_a_trial_that_is_done_is_never_run_again(tmp_path):
    study = small.study(tmp_path / "log")
    first, _ = run(study, tmp_path)
    again, observer = run(study, tmp_path)
    assert len(lines(tmp_path / "log")) == 6
    assert observer.trials == []
    assert again == first


def test_more_seeds_run_only_the_new_trials(tmp_path):
    study = small.study(tmp_path / "log")
    run(study, tmp_path)
    plan = dataclasses.replace(PLAN, seeds=(0, 1, 2, 3))
    verdict, _ = run(study, tmp_path, plan)
    assert [line.split()[1] for line in lines(tmp_path / "log")[6:]] == ["3", "3"]
    assert verdict.trials == 8


def test_other_code_is_another_trial(tmp_path, monkeypatch):
    study = small.study(tmp_path / "log")
    run(study, tmp_path)
    monkeypatch.setattr("batchnorm.study.trial.code_version", lambda module: "other")
    verdict, _ = run(study, tmp_path)
    assert len(lines(tmp_path / "log")) == 12
    assert verdict.trials == 6  # those of the other code are kept, but do not count


def test_a_failing_trial_is_a_record_and_the_rest_still_counts(tmp_path):
    failing = small.study(tmp_path / "log", fails={(1.0, 2)})
    verdict, observer = run(failing, tmp_path)
    assert verdict.failed == 1
    assert verdict.trials == 5
    assert len(verdict.effects[0].values) == 2
    assert verdict.notes[-1] == "1 of 6 trials failed, the first with RuntimeError: asked to fail"
    assert [status for _, _, status in observer.trials].count("failed") == 1
    run(failing, tmp_path)
    assert len(lines(tmp_path / "log")) == 7  # the one that failed is tried again


def test_a_trial_that_takes_its_process_with_it_is_a_record_too(tmp_path):
    verdict, observer = run(small.study(dies={(0.0, 1)}), tmp_path, jobs=2)
    assert (verdict.trials, verdict.failed) == (5, 1)
    assert verdict.notes[-1] == (
        "1 of 6 trials failed, the first with the process that ran it was ended; out of memory?"
    )
    assert ("c99", 1, "failed") in observer.trials


def test_a_study_without_a_single_result_is_not_measured(tmp_path):
    verdict, _ = run(small.study(fails={(s, k) for s in (0.0, 1.0) for k in range(3)}), tmp_path)
    assert verdict.verdict == "not measured"
    assert read_verdicts(tmp_path)[0].verdict == "not measured"


def test_side_by_side_gives_the_same_records(tmp_path):
    run(small.study(), tmp_path / "one")
    run(small.study(seconds=0.0), tmp_path / "two", jobs=2)
    assert timeless(tmp_path / "one") == timeless(tmp_path / "two")


def test_a_study_that_takes_times_runs_in_this_process_alone(tmp_path):
    run(small.study(tmp_path / "log", alone=True), tmp_path, jobs=2)
    assert {line.split()[2] for line in lines(tmp_path / "log")} == {str(os.getpid())}


def test_the_threads_of_this_process_are_given_back(tmp_path):
    torch.set_num_threads(2)
    try:
        run(small.study(), tmp_path)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_an_unfinished_last_line_is_dropped(tmp_path):
    study = small.study(tmp_path / "log")
    run(study, tmp_path)
    path = tmp_path / "c99-small" / "trials.jsonl"
    whole = path.read_text()
    path.write_text(whole[:-30])
    prepare([study], PLAN, tmp_path)  # killed once more before the first trial: nothing is torn in the middle
    assert len(lines(path)) == 5
    run(study, tmp_path)
    assert len(lines(tmp_path / "log")) == 7
    assert len(lines(path)) == 6


def test_what_killed_writers_left_goes_with_the_next_run(tmp_path):
    left = [tmp_path / "c99-small" / f".{name}.ab_cdef8" for name in ("trials.jsonl", "verdict.json")]
    left[0].parent.mkdir()
    for path in left:
        path.write_text("half")
    prepare([small.study()], PLAN, tmp_path, dry=True)
    assert all(path.exists() for path in left)
    prepare([small.study()], PLAN, tmp_path)
    assert not any(path.exists() for path in left)


def test_killed_and_resumed_it_ends_with_the_same_records(tmp_path):
    code = (
        "from pathlib import Path; from tests.study import small, test_run as t; import sys\n"
        "t.run(small.study(seconds=0.2), Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "killed")], start_new_session=True)
    path = tmp_path / "killed" / "c99-small" / "trials.jsonl"
    for _ in range(600):
        if len(lines(path)) >= 2:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(lines(path)) < 6
    resumed, observer = run(small.study(seconds=0.2), tmp_path / "killed")
    whole, _ = run(small.study(seconds=0.2), tmp_path / "whole")
    assert len(observer.trials) < 6
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")
    assert dataclasses.replace(resumed, cpu_seconds=0) == dataclasses.replace(whole, cpu_seconds=0)


def test_a_directory_with_other_files_is_named(tmp_path):
    (tmp_path / "c99-small").mkdir()
    (tmp_path / "c99-small" / "trials.jsonl").write_text(json.dumps({"key": "x"}) + "\n")
    with pytest.raises(ValueError, match=r"trials\.jsonl, line 1: "):
        prepare([small.study()], PLAN, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"executor": "abacus"}, "study: executor expected one of local, dask, ray, got 'abacus'"),
        ({"jobs": 0}, "study: jobs expected an integer >= 1, got 0"),
    ],
)
def test_bad_arguments(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(small.study(), tmp_path, **options)
