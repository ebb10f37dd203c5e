"""``batchnorm fold``: batch norm put into the weights before or after it, and proved."""

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from batchnorm.cli.examples import check_out, example_of, expect_runs, pack_checked
from batchnorm.cli.progress import make_console
from batchnorm.records import write_atomic

__all__ = ["HELP", "command", "summary"]

HELP = """Fold a model's batch norm into its convolutions and linear layers, for prediction.

TARGET is package.module:factory or file.py:factory, called without arguments. The folded tensors are
written as safetensors: read them with model, _ = batchnorm.fold(factory().eval(), example) and
model.load_state_dict. The outputs must be those of the unfolded model."""

Setting = typer.Option


def command(
    target: Annotated[str, typer.Argument(help="Model factory.")],
    out: Annotated[Path, Setting("--out", "-o", help="The file to write, .safetensors.")],
    weights: Annotated[Path | None, Setting(help="Checkpoint for the factory's model.")] = None,
    input: Annotated[str | None, Setting(help="Shape of a random input, as 1x3x224x224.")] = None,
    data: Annotated[str | None, Setting(help="Factory of an iterable of batches; the first is used.")] = None,
    tolerance: Annotated[float | None, Setting(help="Largest relative difference of the outputs.")] = None,
    verify: Annotated[bool, Setting(help="Compare the outputs, which needs --input or --data.")] = True,
    force: Annotated[bool, Setting("--force", help="Replace the file if it exists.")] = False,
    as_json: Annotated[bool, Setting("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Fold, compare, write, print."""
    from batchnorm.surgery import fold
    from batchnorm.targets import load_model

    check_out("fold", out, (".safetensors",), force)
    model = load_model("fold", target, weights).eval()
    example = example_of("fold", input, data)
    if verify and example is None:
        raise ValueError("fold: verify expected --input 1x3x224x224 or --data file.py:factory, got neither")
    if not verify:
        tolerance = math.inf
    if example is not None:
        expect_runs("fold", model, example)
    folded, report = fold(model, example, tolerance=tolerance)
    fresh = None
    if verify:
        fresh, _ = fold(load_model("fold", target, weights).eval(), example, tolerance=tolerance)
    metadata = {"batchnorm.fold": json.dumps(report.to_dict())}
    write_atomic(out, pack_checked("fold", folded, metadata, fresh, example))
    if as_json:
        print(json.dumps({"target": target, "out": str(out), **report.to_dict()}, indent=1))
        return
    console = make_console(False)
    for line in summary(report.to_dict()):
        console.print(line, soft_wrap=True)
    console.print(f"Written to {out}", soft_wrap=True)


def summary(report: dict) -> list[str]:  # type: ignore[type-arg]
    """What a `FoldReport` says, line by line."""
    names = {"folded": report["folded"], "alone": report["alone"], "kept": report["kept"]}
    lines = [", ".join(f"{len(layers)} {what}" for what, layers in names.items())]
    for what in ("alone", "kept"):
        lines += [f"{what}: {name or 'itself'}: {reason}" for name, reason in names[what].items()]
    if report["difference"] is not None:
        lines.append(f"largest difference {report['difference']:.1e} of the largest output")
    return lines
