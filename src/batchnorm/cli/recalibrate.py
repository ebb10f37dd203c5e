"""``batchnorm recalibrate``: population statistics in the place of the running ones."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from batchnorm.cli.examples import (
    WatchedLoader,
    check_out,
    first_input,
    load_batches,
    pack_checked,
    theirs,
)
from batchnorm.cli.progress import make_console
from batchnorm.cli.table import print_table
from batchnorm.cli.words import words
from batchnorm.records import write_atomic

if TYPE_CHECKING:
    from torch import nn

    from batchnorm.surgery import RecalibrationReport

__all__ = ["HELP", "command"]

HELP = """Replace a model's running statistics by those of a data set.

TARGET is package.module:factory or file.py:factory, called without arguments; --data is a factory of
an iterable of training batches. The model's tensors are written as safetensors, the old statistics
beside them as OUT.before.safetensors."""

Setting = typer.Option


def command(
    target: Annotated[str, typer.Argument(help="Model factory.")],
    data: Annotated[str, Setting(help="Factory of an iterable of batches.")],
    out: Annotated[Path, Setting("--out", "-o", help="The file to write, .safetensors.")],
    weights: Annotated[Path | None, Setting(help="Checkpoint for the factory's model.")] = None,
    method: Annotated[str, Setting(help="auto, layerwise or onepass.")] = "auto",
    layers: Annotated[str, Setting(help="Comma-separated names; all that are not frozen if empty.")] = "",
    samples: Annotated[int | None, Setting(help="Use so many samples.")] = None,
    batches: Annotated[int | None, Setting(help="Use so many batches.")] = None,
    tolerance: Annotated[
        float | None, Setting(help="Stop when the means are known to so many standard deviations.")
    ] = None,
    device: Annotated[str | None, Setting(help="Where to compute, as cuda.")] = None,
    allow_small_batches: Annotated[
        bool, Setting("--allow-small-batches", help="One pass even with small batches.")
    ] = False,
    verify: Annotated[bool, Setting(help="Read the file into a fresh model and compare predictions.")] = True,
    force: Annotated[bool, Setting("--force", help="Replace the files if they exist.")] = False,
    as_json: Annotated[bool, Setting("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Measure, write, print."""
    from batchnorm.surgery import recalibrate
    from batchnorm.surgery.layers import expect_initialized
    from batchnorm.targets import load_model, pack_state

    before = out.with_suffix(".before.safetensors")
    for path in (out, before):
        check_out("recalibrate", path, (".safetensors",), force)
    model = load_model("recalibrate", target, weights)
    expect_initialized("recalibrate", model)
    old = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if device is not None:
        with theirs("recalibrate", "device expected one of this machine"):
            model = model.to(device)
    loader = load_batches("recalibrate", data)
    console = make_console(as_json)
    watched = WatchedLoader("recalibrate", loader, console)
    report = recalibrate(
        model,
        iter(watched) if isinstance(loader, Iterator) else watched,  # what is one-time must look so
        forward_fn=_run,
        method=method,
        layers=words(layers) or None,
        samples=samples,
        batches=batches,
        tolerance=tolerance,
        device=device,
        allow_small_batches=allow_small_batches,
    )
    model = model.cpu()
    fresh = example = None
    if verify:
        fresh = load_model("recalibrate", target, weights)
        example = first_input("recalibrate", load_batches("recalibrate", data))
    content = pack_checked("recalibrate", model, {"batchnorm.recalibrate": report.method}, fresh, example)
    write_atomic(before, pack_state(old, {}))
    write_atomic(out, content)
    if as_json:
        print(json.dumps({"target": target, "out": str(out), **report.to_dict()}, indent=1))
    _show(console, report)
    console.print(f"Written to {out}, what was before to {before}", soft_wrap=True)


def _run(model: "nn.Module", batch: object) -> None:
    from batchnorm.surgery.feed import call_on, model_input

    given = model_input(batch, "recalibrate", "data")
    with theirs("recalibrate", "target expected a model that runs on the data"):
        call_on(model, given)


def _show(console: Console, report: "RecalibrationReport") -> None:
    titles = ("layer", "samples", "batches", "mean moved by", "spread changed by", "standard error")
    rows = [
        (
            change.name,
            str(change.samples),
            str(change.batches),
            f"{change.mean_shift:.3g} sd",
            f"factor {change.spread_factor:.3g}",
            f"{change.standard_error:.2g} sd",
        )
        for change in report.layers
    ]
    console.print(f"{report.method}: largest change in any channel, in new standard deviations (sd)")
    print_table(console, titles, rows)
    for change in report.layers:
        if change.unsettled > change.standard_error:
            moved = f"the last round moved it by {change.unsettled:.2g} sd"
            console.print(f"not settled: {change.name or 'itself'}: {moved}", soft_wrap=True)
    for name, reason in report.untouched.items():
        console.print(f"untouched: {name or 'itself'}: {reason}", soft_wrap=True)
