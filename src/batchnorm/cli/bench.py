"""``batchnorm bench``: how fast our kernels are, and whether they are right."""

import contextlib
import datetime
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from batchnorm.cli.progress import make_console
from batchnorm.cli.table import print_table
from batchnorm.cli.words import words
from batchnorm.records import BenchRecord, BenchSummary, summarize, write_atomic

__all__ = ["HELP", "command"]

HELP = """Time our layers against torch.nn's, torch.compile and a copy of the same number of bytes.

The peer torch adds and activates in operations of their own, inplace does that in place. Each case
is first compared with float64; one that is wrong gets no time, and the exit code is 1.
Then ours and the peer run in turn, and the median ratio of the pairs counts: above 1 ours is faster.
The table has the geometric mean over the shapes and the worst.

With --device cuda the card's own events take the time, every call works in memory that is not in its
cache, and the memory that a call takes is compared too."""

Setting = typer.Option

_SHAPES = {
    "cpu": "64x64x56x56,32x256x28x28,32x256x14x14,128x512x7x7,256x6x24x24,256x16x8x8",
    "cuda": "128x64x56x56,128x256x56x56,128x512x28x28,256x2048x7x7",
}
_DTYPES = {"cpu": "float32", "cuda": "bfloat16"}
_PEERS = {"cpu": "torch,copy", "cuda": "torch,compile,copy"}


def command(
    shapes: Annotated[
        str | None, Setting(help="Comma-separated, as 64x64x56x56; 2 to 5 sizes. [default: by device]")
    ] = None,
    cases: Annotated[
        str, Setting(help="Of forward, forward+backward, relu, add+relu, sigmoid (with backward), predict.")
    ] = "forward,forward+backward,relu,add+relu,sigmoid,predict",
    dtypes: Annotated[
        str | None,
        Setting(help="Of float32, bfloat16, float16, float64. [default: float32; cuda: bfloat16]"),
    ] = None,
    layouts: Annotated[str, Setting(help="Of contiguous, channels_last.")] = "contiguous,channels_last",
    threads: Annotated[str, Setting(help="Numbers of CPU threads, or all.")] = "1",
    huge_pages: Annotated[
        str, Setting(help="Of on, off: large tensors in huge pages (THP_MEM_ALLOC_ENABLE=1).")
    ] = "on",
    peers: Annotated[
        str | None,
        Setting(help="Of torch, inplace, compile, copy. [default: torch,copy; cuda: compile too]"),
    ] = None,
    pairs: Annotated[int, Setting(help="How often ours and the peer are timed.")] = 11,
    backend: Annotated[str, Setting(help="Of our layers: auto, eager, native or torch.")] = "auto",
    seed: Annotated[int, Setting(help="Of the data.")] = 0,
    device: Annotated[str, Setting(help="cpu or cuda.")] = "cpu",
    as_json: Annotated[bool, Setting("--json", help="Print the records as JSON and nothing else.")] = False,
    out: Annotated[Path | None, Setting("--out", "-o", help="Write that JSON to a file.")] = None,
    force: Annotated[bool, Setting("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Measure, print the table or the records, write them."""
    from batchnorm.bench import BenchPlan, run_bench

    plan = BenchPlan(
        shapes=tuple(_shape(word) for word in _words(_SHAPES.get(device, "") if shapes is None else shapes)),
        cases=_words(cases),
        dtypes=_words(_DTYPES.get(device, "") if dtypes is None else dtypes),
        layouts=_words(layouts),
        peers=_words(_PEERS.get(device, "") if peers is None else peers),
        threads=tuple(_threads(word) for word in _words(threads)),
        huge_pages=tuple(_switch(word) for word in _words(huge_pages)),
        pairs=pairs,
        backend=backend,
        seed=seed,
        device=device,
    )
    _check_file(out, force)
    console = make_console(as_json)
    with contextlib.closing(run_bench(plan)) as running:
        records = tuple(_watch(running, len(plan), console))
    text = json.dumps(_document(records), indent=1)
    if out is not None:
        write_atomic(out, text + "\n")
    if as_json:
        print(text)
    _show(console, records)
    if not all(record.correct for record in records):
        raise typer.Exit(1)


def _words(text: str) -> tuple[str, ...]:
    # what is named twice is measured once
    return tuple(dict.fromkeys(words(text)))


def _shape(word: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in word.split("x"))
    except ValueError:
        raise ValueError(f"bench: shapes expected sizes as 64x64x56x56, got {word!r}") from None


def _threads(word: str) -> int:
    try:
        return (os.cpu_count() or 1) if word == "all" else int(word)
    except ValueError:
        raise ValueError(f"bench: threads expected numbers or all, got {word!r}") from None


def _switch(word: str) -> bool:
    if word not in ("on", "off"):
        raise ValueError(f"bench: huge_pages expected on, off or both, got {word!r}")
    return word == "on"


def _check_file(out: Path | None, force: bool) -> None:
    if out is not None and out.is_dir():
        raise ValueError(f"bench: out expected a file, got the directory {out}")
    if out is not None and out.exists() and not force:
        raise ValueError(f"bench: out expected a new file, or --force, got {out}")
    if out is not None and not out.parent.is_dir():
        raise ValueError(f"bench: out expected a file in a directory that exists, got {out}")


def _watch(records: Iterable[BenchRecord], total: int, console: Console) -> Iterator[BenchRecord]:
    """Pass the records on; a terminal sees the last one and how far it is."""
    bar = Progress(
        BarColumn(bar_width=20),
        TextColumn("{task.completed}/{task.total} {task.description}"),
        TimeRemainingColumn(compact=True),
        console=console,
        transient=True,
        disable=not console.is_terminal or console.quiet,
    )
    with bar:
        task = bar.add_task("", total=total)
        for record in records:
            yield record
            result = f"{record.ratio:.2f}" if record.correct else "WRONG"
            state = f"{record.case} {_size(record)} {record.dtype} {record.layout} {record.peer} {result}"
            bar.update(task, advance=1, description=state)


def _document(records: Iterable[BenchRecord]) -> dict[str, Any]:
    from batchnorm.ops.environment import describe_environment

    # these two are the workers' settings, not this process's: each record has its own
    ours = {"threads", "THP_MEM_ALLOC_ENABLE"}
    environment = {key: value for key, value in describe_environment().items() if key not in ours}
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"environment": {"date": date, **environment}, "records": [row.to_dict() for row in records]}


def _show(console: Console, records: tuple[BenchRecord, ...]) -> None:
    rows: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for summary in summarize(records):
        row = summary.worst
        label = (row.case, row.dtype, str(row.threads), "on" if row.huge_pages else "off")
        rows.setdefault(label, {})[f"{row.layout} / {row.peer}"] = _cell(summary)
    columns = tuple(dict.fromkeys(f"{row.layout} / {row.peer}" for row in records))
    print_table(
        console,
        ("case", "dtype", "threads", "huge pages", *columns),
        [(*label, *(cells.get(column, "") for column in columns)) for label, cells in rows.items()],
        left=2,
    )
    backends = ", ".join(dict.fromkeys(row.backend for row in records))
    console.print(f"Seconds of the peer over ours ({backends}): geometric mean of the shapes (worst).")
    if any(row.memory is not None for row in records):
        console.print("Memory: the most bytes that a call takes beyond its inputs, ours over the peer's.")


def _cell(summary: BenchSummary) -> str:
    worst = summary.worst
    if not worst.correct:
        return f"WRONG at {_size(worst)}"
    memory = "" if summary.memory is None else f", memory {summary.memory:.2f}"
    return f"{summary.ratio:.2f} ({worst.ratio:.2f} at {_size(worst)}){memory}"


def _size(record: BenchRecord) -> str:
    return "x".join(map(str, record.shape))
