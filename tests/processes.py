"""Run a function in several processes that talk to each other by gloo, on one machine.

The processes are started once and wait for the next call: each of them has to import torch. What passes
is pickled whole, since torch would share a tensor's memory instead, one open file each.
"""

import atexit
import datetime
import multiprocessing
import pickle
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["in_processes"]

_workers: list[tuple[multiprocessing.Process, Connection]] = []


def in_processes(world: int, function: Callable[..., Any], *args: Any, timeout_s: float = 60) -> list[Any]:
    """What ``function(rank, *args)`` returns in each of ``world`` processes, by rank.

    Args:
        world: How many processes.
        function: Importable by its name; called within an initialized process group.
        args: Passed on; picklable.
        timeout_s: Of the group's collectives.

    Returns:
        The results; for a process that ended without one, its exit code in an `EOFError`.

    Raises:
        AssertionError: If it raises in one of them, with their tracebacks.
    """
    while len(_workers) < world:
        _workers.append(_start())
    with tempfile.TemporaryDirectory() as directory:
        for rank in range(world):
            place = {"init_method": f"file://{directory}/store", "rank": rank, "world_size": world}
            _workers[rank][1].send_bytes(pickle.dumps((function, args, place, timeout_s)))
        answers = [_answer(rank) for rank in range(world)]
    failures = [f"rank {rank}:\n{error}" for rank, (error, _) in enumerate(answers) if error]
    assert not failures, "\n".join(failures)
    return [result for _, result in answers]


def _start() -> tuple[multiprocessing.Process, Connection]:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,), daemon=True)
    process.start()
    theirs.close()
    atexit.register(process.terminate)
    return process, ours


def _answer(rank: int) -> tuple[str | None, Any]:
    process, connection = _workers[rank]
    try:
        answer: tuple[str | None, Any] = pickle.loads(connection.recv_bytes())
    except EOFError:
        process.join()
        _workers[rank] = _start()
        return None, EOFError(process.exitcode)
    return answer


def _work(connection: Connection) -> None:
    import torch
    import torch.distributed as dist

    from tests.interpreter import INTERPRETED, use_triton_on_the_cpu

    torch.set_num_threads(1)
    if INTERPRETED:
        use_triton_on_the_cpu()
    while True:
        function, args, place, timeout_s = pickle.loads(connection.recv_bytes())
        dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=timeout_s), **place)
        try:
            answer = None, function(place["rank"], *args)
        except Exception:
            answer = traceback.format_exc(), None
        dist.destroy_process_group()
        connection.send_bytes(pickle.dumps(answer))
