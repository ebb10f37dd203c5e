"""Running studies: what is done is never run again, what fails is a record, what is killed goes on."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from batchnorm.ops.environment import describe_environment
from batchnorm.records import TrialRecord, VerdictRecord
from batchnorm.study.directory import StudyDirectory
from batchnorm.study.executors import check_workers, run_trials
from batchnorm.study.study import Plan, Study
from batchnorm.study.trial import Trial
from batchnorm.study.verdict import judge

__all__ = ["StudyObserver", "Work", "prepare", "run_studies"]


class StudyObserver(Protocol):
    """Told what happens; the command line draws its display from it."""

    def trial(self, study: Study, trial: Trial, record: TrialRecord) -> None:
        """A trial has ended."""

    def verdict(self, record: VerdictRecord) -> None:
        """A study has ended."""


@dataclasses.dataclass(frozen=True)
class Work:
    """A study with what is there and what is to do.

    Attributes:
        study: What is asked.
        trials: All trials of the plan, by their keys.
        directory: Where the records go.
    """

    study: Study
    trials: dict[str, Trial]
    directory: StudyDirectory

    @property
    def todo(self) -> tuple[Trial, ...]:
        """The trials that are not done, the longest first, so that the last ones to run are short."""
        left = (trial for key, trial in self.trials.items() if not self.directory.is_done(key))
        return tuple(sorted(left, key=lambda trial: -trial.cost))


def prepare(studies: Sequence[Study], plan: Plan, directory: Path, *, dry: bool = False) -> tuple[Work, ...]:
    """List the trials of studies and look which are done; ``dry`` makes no directories for them."""
    return tuple(
        Work(
            study,
            {trial.key: trial for trial in study.trials(plan)},
            StudyDirectory(directory / study.title, dry=dry),
        )
        for study in studies
    )


def run_studies(
    works: Sequence[Work], plan: Plan, observer: StudyObserver, *, jobs: int = 1, executor: str = "local"
) -> tuple[VerdictRecord, ...]:
    """Run what is to do, and judge each study when its last trial has ended.

    Args:
        works: From `prepare`.
        plan: The same as there.
        observer: Told what happens.
        jobs: Trials at a time. Studies that measure times run last, one trial after the other.
        executor: One of `batchnorm.study.executors.EXECUTORS`.

    Returns:
        The verdicts in the order of ``works``.

    Raises:
        ValueError: If an argument is out of range.
        NotInstalledError: If what the executor needs is not installed.
    """
    check_workers(jobs, executor)
    verdicts: dict[str, VerdictRecord] = {}

    def finish(work: Work) -> None:
        record = judge(work.study, plan, [work.directory.records[key] for key in work.trials], _environment())
        work.directory.finish(list(work.trials), record)
        verdicts[work.study.id] = record
        observer.verdict(record)

    def run(works: Sequence[Work], jobs: int, executor: str) -> None:
        waiting = [(work, trial) for work in works for trial in work.todo]
        for number, record in run_trials([trial for _, trial in waiting], jobs=jobs, executor=executor):
            work, trial = waiting[number]
            work.directory.add(record)
            observer.trial(work.study, trial, record)
            left[work.study.id] -= 1
            if not left[work.study.id]:
                finish(work)

    left = {work.study.id: len(work.todo) for work in works}
    for work in works:
        if not left[work.study.id]:
            finish(work)
    run([work for work in works if not work.study.alone], jobs, executor)
    run([work for work in works if work.study.alone], 1, "local")
    return tuple(verdicts[work.study.id] for work in works)


def _environment() -> dict[str, str]:
    # without the command: the same study in other company has the same verdict
    given = describe_environment()
    return {key: str(value) for key, value in given.items() if value is not None and key != "command"}
