"""Where trials run: processes of this machine, or those of a Dask or Ray cluster, all through joblib."""

import contextlib
import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

from batchnorm.records import TrialRecord, import_optional
from batchnorm.study.trial import Trial, execute, lost

__all__ = ["EXECUTORS", "Numbered", "check_workers", "run_trials"]

EXECUTORS = ("local", "dask", "ray")

AHEAD = 2  # trials handed out for each worker: the one it runs, and the next


# What each executor imports, and what pip installs for it; joblib first, for Ray's part of it imports that.
_PACKAGES = {
    "local": {"joblib": "batchnorm[train]"},
    "dask": {"joblib": "batchnorm[train]", "distributed": "dask[distributed]"},
    "ray": {"joblib": "batchnorm[train]", "ray": "ray"},
}


def check_workers(jobs: int, executor: str, *, dry: bool = False) -> None:
    """Refuse what `run_trials` cannot run, before anything is begun.

    Args:
        jobs: Trials at a time.
        executor: One of `EXECUTORS`.
        dry: Nothing will run, so that what runs it may be missing.

    Raises:
        ValueError: If an argument is out of range.
        NotInstalledError: If what it needs is not installed; one job on this machine needs nothing.
    """
    if executor not in EXECUTORS:
        raise ValueError(f"study: executor expected one of {', '.join(EXECUTORS)}, got {executor!r}")
    if jobs < 1:
        raise ValueError(f"study: jobs expected an integer >= 1, got {jobs}")
    if dry or (executor == "local" and jobs == 1):
        return
    asker = "study: jobs above 1" if executor == "local" else f"study: executor {executor}"
    for module, package in _PACKAGES[executor].items():
        import_optional(module, asker, package)


Numbered = tuple[int, TrialRecord]


def run_trials(trials: Sequence[Trial], *, jobs: int, executor: str) -> Iterator[Numbered]:
    """Run trials side by side; yields each one's place in ``trials`` and its record, as they end.

    Dask connects to the scheduler of its setting ``scheduler-address`` (``DASK_SCHEDULER_ADDRESS``) and
    Ray to ``RAY_ADDRESS``; without one, each starts a cluster of ``jobs`` workers on this machine.

    Args:
        trials: What to run.
        jobs: How many at a time; a cluster that was there before runs as many as it has workers.
        executor: One of `EXECUTORS`.

    Raises:
        ImportError: If what it needs is not installed; `check_workers` tells before.
        ValueError: If a worker's code is another than ours.
    """
    if not trials:
        return
    if executor == "local" and jobs == 1:
        yield from map(_numbered, enumerate(trials))
        return
    with _CLUSTERS[executor](jobs) as cluster:
        for number, record in cluster(list(enumerate(trials))):
            if record.key != trials[number].key:
                raise ValueError(
                    f"study: worker expected the code and torch of this machine to run {record.function}, "
                    "got others"
                )
            yield number, record


def _numbered(item: tuple[int, Trial]) -> Numbered:
    number, trial = item
    return number, execute(trial)


Cluster = Callable[[list[tuple[int, Trial]]], Iterator[Numbered]]


def _parallel(backend: str, jobs: int) -> Cluster:
    joblib = importlib.import_module("joblib")

    def run(items: list[tuple[int, Trial]]) -> Iterator[Numbered]:
        with joblib.parallel_config(backend=backend, n_jobs=jobs):
            # one trial a task: they take seconds, and each record is wanted as soon as it is there
            parallel = joblib.Parallel(
                return_as="generator_unordered", batch_size=1, pre_dispatch=f"{AHEAD}*n_jobs"
            )
            yield from parallel(joblib.delayed(_numbered)(item) for item in items)

    return run


@contextlib.contextmanager
def _local(jobs: int) -> Iterator[Cluster]:
    pool = _parallel("loky", jobs)

    def alone(number: int, trial: Trial) -> Numbered:
        try:
            return next(pool([(number, trial)]))
        except BrokenProcessPool:
            return number, lost(trial, "the process that ran it was ended; out of memory?")

    def run(items: list[tuple[int, Trial]]) -> Iterator[Numbered]:
        waiting = dict(items)
        while waiting:
            try:
                for number, record in pool(list(waiting.items())):
                    del waiting[number]
                    yield number, record
            except BrokenProcessPool:
                # a worker was killed, with one of the trials that had been handed out; which one is not told
                for number in list(waiting)[: AHEAD * jobs]:
                    yield alone(number, waiting.pop(number))

    yield run


@contextlib.contextmanager
def _dask(jobs: int) -> Iterator[Cluster]:
    distributed = importlib.import_module("distributed")
    dask = importlib.import_module("dask")
    address = dask.config.get("scheduler-address", None)
    # a thread a worker: torch's number of threads belongs to the process
    ours = {"n_workers": jobs, "threads_per_worker": 1, "dashboard_address": ":0"}
    with distributed.Client(**({"address": address} if address else ours)):
        yield _parallel("dask", -1)


@contextlib.contextmanager
def _ray(jobs: int) -> Iterator[Cluster]:
    ray = importlib.import_module("ray")
    joblib = importlib.import_module("joblib")
    importlib.import_module("ray.util.joblib").register_ray()
    place = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": jobs}
    ray.init(**place, log_to_driver=False, logging_level="error")

    def run(items: list[tuple[int, Trial]]) -> Iterator[Numbered]:
        # Ray's backend gives its results all together; in portions little is lost when it is killed
        for start in range(0, len(items), AHEAD * jobs):
            with joblib.parallel_config(backend="ray", n_jobs=jobs):
                portion = (joblib.delayed(_numbered)(item) for item in items[start : start + AHEAD * jobs])
                results = joblib.Parallel(batch_size=1)(portion)
            yield from results

    try:
        yield run
    finally:
        ray.shutdown()


_CLUSTERS: dict[str, Callable[[int], contextlib.AbstractContextManager[Cluster]]] = {
    "local": _local,
    "dask": _dask,
    "ray": _ray,
}
