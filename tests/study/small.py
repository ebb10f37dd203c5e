"""A study that takes no time: its trials draw a number, write down that they ran, fail or wait."""

import operator
import os
import signal
import socket
import time
from pathlib import Path

import torch

from batchnorm.records import Figure
from batchnorm.study import Condition, Plan, Reading, Study, Trial
from batchnorm.study.results import compare

PLAN = Plan("quick", (0, 1, 2), "embedded-sample")


def draw(*, seed, shift, log="", fails=False, dies=False, seconds=0.0, door=0):
    """A number about ``shift``; appends a line to the file ``log``, and waits for who listens at ``door``."""
    time.sleep(seconds)
    if door:
        with socket.create_connection(("127.0.0.1", door)) as connection:
            connection.recv(1)
    if log:
        with open(log, "a") as file:
            file.write(f"{shift} {seed} {os.getpid()}\n")
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    if fails:
        raise RuntimeError("asked to\nfail")
    noise = torch.randn((), generator=torch.Generator().manual_seed(seed)).item()
    return {"value": shift + noise, "threads": torch.get_num_threads()}


def study(log="", *, name="small", fails=(), dies=(), seconds=0.0, door=0, alone=False):
    def trials(plan):
        return [
            Trial.of(
                draw,
                seed,
                100.0,
                shift=shift,
                log=str(log),
                fails=(shift, seed) in fails,
                dies=(shift, seed) in dies,
                seconds=seconds,
                door=door if (shift, seed) == (0.0, 0) else 0,
            )
            for shift in (0.0, 1.0)
            for seed in plan.seeds
        ]

    def read(results, plan):
        moved, still = results.per_seed("value", shift=1.0), results.per_seed("value", shift=0.0)
        rows = results.points("shift", "value", "drawn")
        return Reading(
            effects={
                "moves": compare(operator.sub, moved, still),
                "moves far": compare(operator.sub, moved, still),
            },
            figures=[Figure("values", "Values", "line", "shift", "value", "95 % interval", tuple(rows))],
            notes=[f"{len(moved)} moved"],
        )

    return Study(
        id="c99",
        name=name,
        claim="A shift moves.",
        hypothesis="A number drawn about 1 is above the same draw about 0.",
        held_equal="The draw.",
        measure="The difference.",
        against="No difference.",
        conditions=(
            Condition("moves", "the difference", "above", 0.5),
            Condition("moves far", "the difference", "above", 2.0),
        ),
        trials=trials,
        read=read,
        alone=alone,
    )


class Silent:
    """An observer that keeps what it is told."""

    def __init__(self):
        self.trials, self.verdicts = [], []

    def trial(self, study, trial, record):
        self.trials.append((study.id, trial.seed, record.status))

    def verdict(self, record):
        self.verdicts.append(record)


def lines(path):
    return Path(path).read_text().splitlines() if Path(path).exists() else []
