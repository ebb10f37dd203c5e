"""Starting a worker for each number of threads and setting of huge pages."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator

from batchnorm.bench.plan import BenchPlan
from batchnorm.records import BenchRecord

__all__ = ["run_bench"]

# -P: no file in the user's directory shall stand in for a module
COMMAND = [sys.executable, "-P", "-m", "batchnorm.bench.worker"]

_HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


def run_bench(plan: BenchPlan) -> Generator[BenchRecord, None, None]:
    """Measure what the plan asks for; yields each record as it is done.

    Closing the iterator ends the worker.

    Args:
        plan: What to measure.

    Raises:
        RuntimeError: If a worker fails; the text has its last words.
    """
    for threads in plan.threads:
        for huge_pages in plan.huge_pages:
            yield from _work(plan, threads, huge_pages)


def _work(plan: BenchPlan, threads: int, huge_pages: bool) -> Generator[BenchRecord, None, None]:
    environment = {key: value for key, value in os.environ.items() if key != _HUGE_PAGES}
    if huge_pages:
        environment[_HUGE_PAGES] = "1"
    job = {"plan": dataclasses.asdict(plan), "threads": threads, "huge_pages": huge_pages}
    # Files, not pipes: a worker that dies early or says much can block neither of us.
    with tempfile.TemporaryFile("w+") as request, tempfile.TemporaryFile("w+") as complaints:
        json.dump(job, request)
        request.seek(0)
        worker = subprocess.Popen(
            COMMAND, stdin=request, stdout=subprocess.PIPE, stderr=complaints, text=True, env=environment
        )
        try:
            assert worker.stdout is not None
            for line in worker.stdout:
                yield BenchRecord.from_dict(json.loads(line))
            status = worker.wait()
        finally:
            worker.kill()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
        if status:
            complaints.seek(0)
            words = complaints.read().strip().splitlines() or [f"exit status {status}"]
            raise RuntimeError(f"bench: worker expected to finish, got {words[-1]}")
