"""C12: batch normalization costs efficiency when training is distributed."""

import operator
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from batchnorm.records import Figure
from batchnorm.study.processes import ARMS, time_steps
from batchnorm.study.results import PerSeed, Results, compare, point
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = ["STUDY"]

PROCESSES = (1, 2, 4)
# the start of a process, in images of LeNet: it imports torch
START = 12000


def _trials(plan: Plan) -> list[Trial]:
    size = {"batch_size": 64, "steps": 15 if plan.quick else 60}
    cost = len(ARMS) * size["batch_size"] * size["steps"]
    return [
        Trial.of(time_steps, seed, (START + cost) * processes, processes=processes, **size)
        for processes in PROCESSES
        for seed in plan.seeds
    ]


def _seconds(arm: str) -> Callable[[Mapping[str, Any]], float]:
    return lambda result: float(result[arm]["seconds"])


def _read(results: Results, plan: Plan) -> Reading:
    seconds = {
        (arm, processes): results.per_seed(_seconds(arm), processes=processes)
        for arm in ARMS
        for processes in PROCESSES
    }

    def ratio(processes: int, over: str, under: str) -> PerSeed:
        return {
            seed: taken / seconds[under, processes][seed] for seed, taken in seconds[over, processes].items()
        }

    many = results.where(processes=4).rows
    rows = [
        point(arm, processes, [1000 * taken for taken in cell.values()])
        for (arm, processes), cell in seconds.items()
        if cell
    ]
    notes = [
        f"In a step of LeNet with synchronized statistics each process calls {row.result['synced']['calls']} "
        f"collectives with {row.result['synced']['bytes']:,} bytes, beside {row.result['gradients']:,} bytes "
        "of gradients."
        for row in many[:1]
    ]
    for processes in PROCESSES:
        noun = "process" if processes == 1 else "processes"
        for over, under in (("local", "none"), ("synced", "local")):
            cell = ratio(processes, over, under)
            if cell:
                mean = statistics.geometric_mean(cell.values())
                notes.append(f"With {processes} {noun} a step with {over} takes {mean:.2f} times {under}'s.")
    return Reading(
        effects={
            "local is silent": [row.result["local"]["calls"] for row in results.rows],
            "synced speaks": [row.result["synced"]["calls"] for row in many],
            "few bytes": [row.result["synced"]["bytes"] / row.result["gradients"] for row in many],
            "synced is slower": list(ratio(2, "synced", "local").values()),
            "and more so with more": compare(
                operator.truediv, ratio(4, "synced", "local"), ratio(2, "synced", "local")
            ),
            "local scales like none": compare(
                operator.truediv, ratio(2, "local", "none"), ratio(1, "local", "none")
            ),
        },
        figures=[
            Figure(
                name="seconds",
                title="Time of a training step by number of processes, 64 images each",
                mark="line",
                x="processes",
                y="milliseconds",
                band="95 % t interval over seeds",
                rows=tuple(rows),
            )
        ],
        notes=notes,
    )


STUDY = Study(
    id="c12",
    name="distributed",
    claim="Batch normalization costs efficiency when training is distributed.",
    hypothesis="With statistics of each process's own, the layers send nothing, and training scales like a "
    "network without them. Synchronized statistics call two collectives a layer and step, small ones, and "
    "make steps slower, the more so the more processes there are.",
    held_equal="Initial weights, 64 images of noise in each process, one thread each, gloo on one machine, "
    "torch's DistributedDataParallel as it comes, which also sends the layers' running statistics from the "
    "first process to the others before each step; not used with one process. The arms take their steps in "
    "turn.",
    measure="Median time of a step in the first process, forward, backward and exchange of gradients; calls "
    "and bytes of the layers' own collectives. Where the machine has fewer cores than there are processes, "
    "all arms wait for the cores.",
    against="Synchronized steps as fast as local ones; or local statistics that slow a step down only when "
    "there are several processes.",
    conditions=(
        Condition("local is silent", "collectives of a step with local statistics", "below", 0.5, exact=True),
        Condition(
            "synced speaks", "collectives of a step, synchronized, 4 processes", "above", 0.5, exact=True
        ),
        Condition("few bytes", "bytes of statistics over bytes of gradients", "below", 0.1, "×", exact=True),
        Condition(
            "synced is slower", "time of a step, 2 processes, synchronized over local", "above", 1.0, "×"
        ),
        Condition("and more so with more", "that ratio with 4 processes over it with 2", "above", 1.0, "×"),
        Condition(
            "local scales like none", "time, local over none, with 2 processes over with 1", "below", 1.2, "×"
        ),
    ),
    trials=_trials,
    read=_read,
    alone=True,
)
