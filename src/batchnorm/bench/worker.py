"""The process that measures: ``python -m batchnorm.bench.worker``, a job on standard input.

A process of its own, since torch reads ``THP_MEM_ALLOC_ENABLE`` once, as it starts.
"""

import json
import math
import sys
from collections.abc import Iterator

import torch

from batchnorm.bench.cases import Problem, make_problem
from batchnorm.bench.check import largest_error
from batchnorm.bench.cuda import event_clock, peak_bytes, rotated
from batchnorm.bench.measure import Timings, measure_pair, quantiles
from batchnorm.bench.plan import BenchPlan
from batchnorm.bench.steps import in_turn, make_peer, make_step, our_layer
from batchnorm.ops import resolve_backend
from batchnorm.records import BenchRecord

__all__ = ["main", "measure"]

_UNTIMED = Timings((math.nan,), (math.nan,))
_UNCOUNTED = (None, None)


def main() -> None:
    """Read ``{"plan": …, "threads": …, "huge_pages": …}``; print a record a line as it is done."""
    job = json.load(sys.stdin)
    for record in measure(BenchPlan.from_dict(job["plan"]), job["threads"], job["huge_pages"]):
        print(json.dumps(record.to_dict()), flush=True)


def measure(plan: BenchPlan, threads: int, huge_pages: bool) -> Iterator[BenchRecord]:
    """Check and time every problem of the plan in this process.

    Args:
        plan: Its own threads and huge pages do not matter here.
        threads: CPU threads, set for torch.
        huge_pages: How this process was started; goes into the records.
    """
    torch.set_num_threads(threads)
    for case, shape, dtype, layout in plan.problems():
        problem = make_problem(case, shape, dtype, layout, plan.seed, plan.device)
        error = largest_error(problem, plan.backend)
        for peer in plan.peers:
            timings, memory = _time(problem, peer, plan) if error <= 1 else (_UNTIMED, _UNCOUNTED)
            low, seconds, high = quantiles(timings.ours)
            ratio_low, ratio, ratio_high = quantiles(timings.ratios)
            yield BenchRecord(
                case=case.name,
                shape=shape,
                dtype=dtype,
                layout=layout,
                threads=threads,
                huge_pages=huge_pages,
                backend=resolve_backend(plan.backend, problem.x),
                peer=peer,
                bytes_moved=problem.bytes_moved,
                seconds=seconds,
                seconds_p20=low,
                seconds_p80=high,
                peer_seconds=quantiles(timings.peer)[1],
                ratio=ratio,
                ratio_p20=ratio_low,
                ratio_p80=ratio_high,
                pairs=plan.pairs if error <= 1 else 0,
                error=error,
                correct=error <= 1,
                device=plan.device,
                memory=memory[0],
                peer_memory=memory[1],
            )


def _time(problem: Problem, peer: str, plan: BenchPlan) -> tuple[Timings, tuple[float | None, float | None]]:
    """Times, and bytes of memory of ours and the peer."""
    on_gpu = plan.device == "cuda"
    problems = rotated(problem) if on_gpu else [problem]
    layer = our_layer(problem, plan.backend)
    steps = in_turn([make_step(each, layer) for each in problems]), make_peer(peer, *problems)
    if not on_gpu:
        return measure_pair(*steps, plan.pairs), (None, None)
    timings = measure_pair(*steps, plan.pairs, event_clock)
    return timings, (peak_bytes(steps[0]), peak_bytes(steps[1]))


if __name__ == "__main__":
    main()
