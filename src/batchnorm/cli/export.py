"""``batchnorm export``: a folded model as ONNX or a torch.export program, run and compared."""

import json
from pathlib import Path
from typing import Annotated

import typer

from batchnorm.cli.examples import check_out, example_of, expect_runs
from batchnorm.cli.fold import summary
from batchnorm.cli.progress import make_console

__all__ = ["HELP", "command"]

HELP = """Write a model for prediction elsewhere: as ONNX (-o model.onnx) or for torch.export (-o model.pt2).

TARGET is package.module:factory or file.py:factory, called without arguments. Batch norm is folded
first; --keep-bn leaves it as it is. The file is run, by onnxruntime or torch, on the input and on a
random one, and must give what the model gives; the number of samples may vary."""

Setting = typer.Option


def command(
    target: Annotated[str, typer.Argument(help="Model factory.")],
    out: Annotated[Path, Setting("--out", "-o", help="The file to write, .onnx or .pt2.")],
    weights: Annotated[Path | None, Setting(help="Checkpoint for the factory's model.")] = None,
    input: Annotated[str | None, Setting(help="Shape of a random input, as 1x3x224x224.")] = None,
    data: Annotated[str | None, Setting(help="Factory of an iterable of batches; the first is used.")] = None,
    keep_bn: Annotated[bool, Setting("--keep-bn", help="Do not fold batch norm.")] = False,
    static_batch: Annotated[
        bool, Setting("--static-batch", help="Fix the number of samples to the input's.")
    ] = False,
    tolerance: Annotated[float | None, Setting(help="Largest relative difference of the outputs.")] = None,
    verify: Annotated[bool, Setting(help="Run the file and compare its outputs.")] = True,
    force: Annotated[bool, Setting("--force", help="Replace the file if it exists.")] = False,
    as_json: Annotated[bool, Setting("--json", help="Print the report as JSON and nothing else.")] = False,
) -> None:
    """Fold, export, compare, write, print."""
    from batchnorm.surgery import export
    from batchnorm.targets import load_model

    check_out("export", out, (".onnx", ".pt2"), force)
    model = load_model("export", target, weights).eval()
    example = example_of("export", input, data)
    if example is None:
        raise ValueError("export: input expected --input 1x3x224x224 or --data file.py:factory, got neither")
    expect_runs("export", model, example)
    report = export(
        model,
        example,
        out,
        keep_bn=keep_bn,
        dynamic_batch=not static_batch,
        tolerance=tolerance,
        verify=verify,
    ).to_dict()
    if as_json:
        print(json.dumps({"target": target, **report}, indent=1))
        return
    console = make_console(False)
    for line in summary(report["fold"]) if report["fold"] else ():
        console.print(line, soft_wrap=True)
    if report["difference"] is not None:
        console.print(
            f"{out.name} on {report['inputs']} inputs: largest difference {report['difference']:.1e}",
            soft_wrap=True,
        )
    console.print(f"Written to {out}", soft_wrap=True)
