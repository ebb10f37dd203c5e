"""What a study will cost, said before it starts."""

import time
from collections.abc import Iterable

import torch
import torch.nn.functional as F

from batchnorm.models import build
from batchnorm.study.trial import Trial

__all__ = ["estimated_seconds", "measured_speed"]

BATCH, STEPS = 64, 12


def measured_speed() -> float:
    """Training images of LeNet with batch normalization in a second, on one thread of this machine, now.

    Trials state their cost in such images. Takes a fraction of a second.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = build("lenet", norm="batch")
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        images, labels = torch.zeros(BATCH, 1, 28, 28), torch.zeros(BATCH, dtype=torch.long)
        for step in range(STEPS + 2):
            if step == 2:  # the first steps allocate
                start = time.perf_counter()
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return BATCH * STEPS / (time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)


def estimated_seconds(trials: Iterable[Trial], speed: float, jobs: int) -> float:
    """Wall clock of trials, ``jobs`` at a time.

    Args:
        trials: Those that are to run.
        speed: As `measured_speed` gives it.
        jobs: At least 1.
    """
    return sum(trial.cost for trial in trials) / speed / jobs
