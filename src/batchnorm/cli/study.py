"""``batchnorm study``: the claims about batch normalization, measured."""

import contextlib
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from batchnorm.cli.progress import make_console, warn
from batchnorm.cli.table import SAMPLE, print_table
from batchnorm.cli.train import MOST_SEEDS
from batchnorm.records import TrialRecord, VerdictRecord, read_object, write_atomic

if TYPE_CHECKING:
    from batchnorm.study import Study, Trial, Work

__all__ = ["HELP", "command"]

HELP = """Measure the textbook's claims about batch normalization, each with a verdict.

A verdict is holds, holds in part or does not hold here; it is computed from effects with 95 % intervals
over seeds, by a rule that the study states before it runs. What was measured before with the same settings
and code is not measured again, so the same command goes on where a killed one stopped."""

Setting = typer.Option


def command(
    names: Annotated[
        list[str] | None, typer.Argument(help="Studies by identifier or name, as c05; all if none is given.")
    ] = None,
    profile: Annotated[
        str, Setting(help="quick (the embedded sample) or full (all of Fashion-MNIST).")
    ] = "quick",
    seeds: Annotated[
        int | None, Setting(help="How many; 3 if quick, 5 if full, where C06 takes 10 at least.")
    ] = None,
    jobs: Annotated[int | None, Setting(help="Trials at a time; the number of cores if not given.")] = None,
    executor: Annotated[str, Setting(help="local, dask or ray.")] = "local",
    out: Annotated[Path, Setting(help="Directory of the records.")] = Path("studies"),
    resume: Annotated[
        bool, Setting("--resume", help="Take names, profile and seeds from the last run in --out.")
    ] = False,
    as_json: Annotated[bool, Setting("--json", help="Print the verdicts as JSON and nothing else.")] = False,
    dry_run: Annotated[
        bool, Setting("--dry-run", help="Say what the studies are and cost, and stop.")
    ] = False,
) -> None:
    """Say what it costs, run, print the verdicts."""
    from batchnorm.study import (
        Plan,
        check_workers,
        choose_studies,
        estimated_seconds,
        measured_speed,
        prepare,
        run_studies,
    )
    from batchnorm.study.directory import only_writer

    if resume:
        if names or seeds is not None:
            raise ValueError("study: names and seeds expected from the last run with --resume, got others")
        names, profile, seeds = _last(out)
    if profile not in ("quick", "full"):
        raise ValueError(f"study: profile expected quick or full, got {profile!r}")
    count = seeds if seeds is not None else {"quick": 3, "full": 5}[profile]
    if count < 1:
        raise ValueError(f"study: seeds expected an integer >= 1, got {count}")
    if count > MOST_SEEDS:
        raise ValueError(f"study: seeds expected at most {MOST_SEEDS}, got {count}")
    studies = choose_studies(names or ["all"])
    at_a_time = jobs if jobs is not None else os.cpu_count() or 1
    check_workers(at_a_time, executor, dry=dry_run)
    with contextlib.nullcontext() if dry_run else only_writer(out):
        plan = Plan("quick" if profile == "quick" else "full", tuple(range(count)), _data(profile))
        works = prepare(studies, plan, out, dry=dry_run)
        console = make_console(as_json)
        speed = measured_speed()
        _announce(console, speed, works, [estimated_seconds(work.todo, speed, at_a_time) for work in works])
        if dry_run:
            return
        what = {"names": names or ["all"], "profile": profile, "seeds": count}
        write_atomic(out / "plan.json", json.dumps(what) + "\n")
        with _Display(console, sum(trial.cost for work in works for trial in work.todo)) as display:
            try:
                verdicts = run_studies(works, plan, display, jobs=at_a_time, executor=executor)
            except (KeyboardInterrupt, OSError):
                warn(f"stopped; batchnorm study --resume --out {shlex.quote(str(out))} goes on")
                raise
    if as_json:
        print(json.dumps({"directory": str(out), "studies": [record.to_dict() for record in verdicts]}))
    else:
        _show(console, verdicts, out)


def _data(profile: str) -> str:
    """Which images a profile uses; loading them here also fetches them once, for all workers."""
    if profile == "quick":
        return "embedded-sample"
    from batchnorm.data import load_fashion_mnist

    return load_fashion_mnist(notify=lambda warning: warn(str(warning))).source


def _last(out: Path) -> tuple[list[str], str, int]:
    path = out / "plan.json"
    if not path.is_file():
        raise ValueError(f"study: resume expected studies with plan.json in {out}, got none")
    plan = read_object(path)
    names, profile, seeds = map(plan.get, ("names", "profile", "seeds"))
    if not (isinstance(names, list) and isinstance(profile, str) and isinstance(seeds, int)):
        raise ValueError(f"study: resume expected a list of names, a profile and seeds in {path}, got {plan}")
    return list(map(str, names)), profile, seeds


def _announce(console: Console, speed: float, works: Sequence["Work"], seconds: Sequence[float]) -> None:
    rows = [
        (work.study.title, str(len(work.trials)), str(len(work.todo)), _duration(cost))
        for work, cost in zip(works, seconds, strict=True)
    ]
    rows.append(("all", "", "", _duration(sum(seconds))))
    print_table(console, ("study", "trials", "to do", "about"), rows)
    console.print(f"At {speed:,.0f} training images of LeNet in a second on one thread, as measured now.")
    for work in works:
        if work.todo:
            console.print(Text.assemble((work.study.id, "bold"), f" {work.study.claim}"), soft_wrap=True)
            console.print(f"    expects: {work.study.hypothesis}", soft_wrap=True)
            console.print(f"    against: {work.study.against}", soft_wrap=True)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


class _Display:
    """A `StudyObserver` that draws one bar for everything, by cost, and keeps a line for each verdict."""

    def __init__(self, console: Console, cost: float) -> None:
        self.console = console
        self.progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}% {task.description}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not console.is_terminal or console.quiet,
        )
        self.task = self.progress.add_task("", total=max(cost, 1))

    def __enter__(self) -> "_Display":
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def trial(self, study: "Study", trial: "Trial", record: TrialRecord) -> None:
        """Move the bar by the trial's share; tell of a failure at once."""
        if record.status == "failed":
            warn(f"{study.title} seed {record.seed}: {record.error}")
        settings = " ".join(f"{name}={value}" for name, value in record.settings.items() if name != "data")
        words = f"{study.id} seed {record.seed} {settings}"[:70]
        self.progress.update(self.task, advance=trial.cost, description=words)

    def verdict(self, record: VerdictRecord) -> None:
        """Keep a line."""
        self.progress.console.print(
            Text.assemble(f"{record.study} {record.name}: ", (record.verdict, "bold"))
        )


def _show(console: Console, verdicts: Sequence[VerdictRecord], out: Path) -> None:
    if any(record.data == "embedded-sample" for record in verdicts):
        console.print(SAMPLE)
    titles = ("study", "verdict", "condition", "effect", "95 % interval", "met")
    rows = []
    for record in verdicts:
        head = (f"{record.study} {record.name}", record.verdict)
        for effect in record.effects:
            side = f"{effect.side} {effect.bound:g} {effect.unit}".rstrip()
            mean = "every value" if effect.method == "exact" else f"{effect.mean:.4g}"
            interval = f"{effect.low:.4g} … {effect.high:.4g}"
            met = {True: "yes", False: "no", None: "-"}[effect.met]
            rows.append((*head, f"{effect.name} ({side})", mean, interval, met))
            head = ("", "")
    print_table(console, titles, rows, left=len(titles))
    console.print(f"records {out}", soft_wrap=True)
