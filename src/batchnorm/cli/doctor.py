"""``batchnorm doctor``: what is wrong with a network's batch normalization."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from batchnorm.cli.examples import check_out
from batchnorm.cli.progress import make_console, warn
from batchnorm.cli.words import words
from batchnorm.records import SEVERITIES, some_of, write_atomic

if TYPE_CHECKING:
    from torch import Tensor, nn

    from batchnorm.doctor import Report

__all__ = ["HELP", "command"]

HELP = """Find faults of batch normalization, prove them on data, and mend them.

TARGET is package.module:factory or file.py:factory, called without arguments, a checkpoint (.pt, .pth,
.bin, .ckpt, .safetensors, .index.json) or an exported program (.onnx, .pt2). With --data some faults
can be seen only then, and suspicions are settled; the factory returns an iterable of training batches.
Exit code 1 says that there is an error. "Found" rests on its evidence alone, "suspected" could be
settled by data, "confirmed" was."""

COLOURS = {
    r"(?m)^error(?= BN)": "bold red",
    r"(?m)^warn(?= BN)": "yellow",
    r"(?m)^info(?= BN)": "cyan",
    r"\bBN\d{3}\b": "bold",
    r"(?m)^  evidence: .*$": "dim",
}

Setting = typer.Option

NAMED = 4  # tensors in a line


def command(
    target: Annotated[str, typer.Argument(help="Model factory or checkpoint.")],
    data: Annotated[str | None, Setting(help="Factory of an iterable of training batches.")] = None,
    weights: Annotated[Path | None, Setting(help="Checkpoint to load into the factory's model.")] = None,
    optimizer: Annotated[str | None, Setting(help="Factory of the optimizer, given the model.")] = None,
    rules: Annotated[str, Setting(help="Comma-separated codes to check; all if empty.")] = "",
    ignore: Annotated[str, Setting(help="Codes not to check.")] = "",
    batches: Annotated[int, Setting(help="Training batches to look at.")] = 20,
    goal: Annotated[str | None, Setting(help="What comes next: train, predict, fold or export.")] = None,
    source_eps: Annotated[float | None, Setting(help="eps where the weights come from.")] = None,
    steps: Annotated[int | None, Setting(help="Optimizer steps of the whole training.")] = None,
    accumulation: Annotated[int, Setting(help="Micro-batches per optimizer step.")] = 1,
    replicas: Annotated[int, Setting(help="Devices that share one batch.")] = 1,
    ranks: Annotated[int, Setting(help="Processes that train together.")] = 1,
    fix: Annotated[bool, Setting("--fix", help="Mend a copy, and write it to --out.")] = False,
    consent: Annotated[str, Setting(help="Codes whose fix may change numbers.")] = "",
    out: Annotated[
        Path | None,
        Setting(
            "--out",
            "-o",
            help="New file for the mended copy's state dict, .pt; a fix may drop or add tensors.",
        ),
    ] = None,
    fail_on: Annotated[
        str, Setting(help="Severity from which the exit code is 1: error, warn or info.")
    ] = "error",
    as_json: Annotated[bool, Setting("--json", help="Print the report as JSON and nothing else.")] = False,
    sarif: Annotated[
        Path | None, Setting(help="Write the findings as SARIF 2.1.0, over the file if it exists.")
    ] = None,
    html: Annotated[
        Path | None,
        Setting(help="Write the report as a page that needs no network, over the file if it exists."),
    ] = None,
) -> None:
    """Diagnose, print, mend."""
    from torch import nn

    from batchnorm.doctor import diagnose
    from batchnorm.doctor.sarif import sarif as to_sarif
    from batchnorm.targets import load_state, load_target

    if fail_on not in SEVERITIES:
        raise ValueError(f"doctor: fail-on expected one of {', '.join(SEVERITIES)}, got {fail_on!r}")
    if fix and (out is None or out.exists()):
        got = "none" if out is None else out
        raise ValueError(f"doctor: out expected a new file for the mended copy, got {got}")
    if out is not None:
        if not fix:
            raise ValueError("doctor: out expected --fix, which makes what is written, got none")
        check_out("doctor", out, (".pt",), False)
    model = load_target("doctor", target)
    if not isinstance(model, nn.Module):
        if fix:
            raise ValueError(f"doctor: fix expected a model to mend, {_instead(target, model)}")
        if data is not None:
            raise ValueError(f"doctor: data expected a model to run them on, {_instead(target, model)}")
    state = None
    if weights is not None:
        if not isinstance(model, nn.Module):
            raise ValueError("doctor: weights expected a factory as target, got a checkpoint")
        state = load_state("doctor", weights)
        _load(model, state, weights)
    report = diagnose(
        model,
        None if data is None else _made("data", data, "training batches"),
        optimizer=None if optimizer is None else _made("optimizer", optimizer, "an optimizer", model),
        rules=words(rules) or None,
        ignore=words(ignore),
        batches=batches,
        goal=goal,
        source_eps=source_eps,
        steps=steps,
        accumulation=accumulation,
        replicas=replicas,
        ranks=ranks,
        checkpoint=state,
    )
    if not report.layers_seen:
        raise ValueError(f"doctor: target expected a model with batch norm, got none in {target}")
    fixed = mended = None
    if fix:
        assert isinstance(model, nn.Module)
        fixed, mended = report.fix(model, consent=words(consent))
    if as_json:
        more = {} if mended is None else {"fix": mended.to_dict()}
        print(json.dumps({"target": target, **report.to_dict(), **more}, indent=1))
    else:
        _show(make_console(False), str(report) if mended is None else f"{report}\n\n{mended}")
    # The files come last: one that cannot be written does not cost the diagnosis.
    if mended is not None and any(one.done for one in mended.mended):
        assert out is not None
        assert fixed is not None
        assert isinstance(model, nn.Module)
        write_atomic(out, _packed(fixed))
        if not as_json:
            _show(make_console(False), _written(out, model, fixed))
    if sarif is not None:
        write_atomic(sarif, json.dumps(to_sarif(report, target), indent=1) + "\n")
    if html is not None:
        write_atomic(html, _page(target, report))
    left = report.findings if mended is None else mended.remaining
    if any(SEVERITIES.index(finding.severity) <= SEVERITIES.index(fail_on) for finding in left):
        raise typer.Exit(1)


def _instead(target: str, model: object) -> str:
    """What to give where there is no model's code."""
    if isinstance(model, Mapping):
        code = f"batchnorm doctor package.module:factory --weights {target}"
        return f"got a checkpoint alone; with its code: {code}"
    return "got an exported program; diagnose the model it was made of, and export that again"


def _load(model: "nn.Module", state: "Mapping[str, Tensor]", source: Path) -> None:
    """As a careless loader would, which is what BN007 judges; but not in silence."""
    from batchnorm.targets import unwrapped

    own = model.state_dict()
    given = unwrapped(state, own)
    for key, value in given.items():
        if key in own and value.shape != own[key].shape:
            raise ValueError(
                f"doctor: weights expected shape {tuple(own[key].shape)} of {key}, got {tuple(value.shape)}"
            )
    # As everywhere, files from before there were counters may lack them.
    needed = [key for key in own if not key.endswith("num_batches_tracked")]
    if differs := _difference(needed, given, own):
        stays = "; what it lacks is as the factory made it" if set(needed) - given.keys() else ""
        warn(f"doctor: weights expected the names of this model, got {source} {differs}{stays}")
    model.load_state_dict(given, strict=False)


def _difference(needed: Iterable[str], given: Iterable[str], known: Iterable[str]) -> str:
    """Names that are missing and names too many, in words; empty if there are none."""
    missing, unknown = _without(needed, set(given)), _without(given, set(known))
    parts = [f"without {missing}"] * bool(missing) + [f"with {unknown}"] * bool(unknown)
    return " and ".join(parts)


def _without(names: Iterable[str], others: set[str]) -> str:
    return some_of((name for name in names if name not in others), NAMED)


def _made(what: str, factory: str, kind: str, *arguments: object) -> Any:
    """What a factory returns: None would mean that nothing was given."""
    from batchnorm.targets import load_factory

    made = load_factory("doctor", what, factory)(*arguments)
    if made is None:
        raise ValueError(f"doctor: {what} expected {factory} to return {kind}, got None")
    return made


def _page(target: str, report: "Report") -> str:
    from batchnorm.report import render_diagnosis

    return render_diagnosis(target, report.to_dict(), report.channels)


def _written(out: Path, model: "nn.Module", fixed: "nn.Module") -> str:
    """Where the mended copy is, and what a model must have or lack to load it."""
    own, kept = model.state_dict(), fixed.state_dict()
    differs = _difference(own, kept, own)
    return f"Written to {out}" + (f", {differs}: load it into a model that is built so" if differs else "")


def _packed(model: "nn.Module") -> bytes:
    import io

    import torch

    content = io.BytesIO()
    torch.save(model.state_dict(), content)
    return content.getvalue()


def _show(console: Console, text: str) -> None:
    coloured = Text(text)
    for pattern, style in COLOURS.items():
        coloured.highlight_regex(pattern, style)
    console.print(coloured, soft_wrap=True)
