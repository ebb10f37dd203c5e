"""``batchnorm doctor``: what is wrong with a network's batch normalization."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from batchnorm.cli.progress import make_console
from batchnorm.cli.words import words
from batchnorm.records import SEVERITIES, Finding, write_atomic

if TYPE_CHECKING:
    from torch import nn

    from batchnorm.doctor import FixReport, Report

__all__ = ["HELP", "command"]

HELP = """Find faults of batch normalization, prove them on data, and mend them.

TARGET is package.module:factory or file.py:factory, called without arguments, or a checkpoint (.pt,
.pth, .safetensors). With --data some faults can be seen only then, and suspicions are settled; the
factory returns an iterable of training batches. Exit code 1 says that there is an error.
"Found" rests on its evidence alone, "suspected" could be settled by data, "confirmed" was."""

COLOURS = {"error": "bold red", "warn": "yellow", "info": "cyan"}

Setting = typer.Option


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
    out: Annotated[Path | None, Setting("--out", "-o", help="State dict of the mended copy (.pt).")] = None,
    fail_on: Annotated[str, Setting(help="Gravity from which the exit code is 1.")] = "error",
    as_json: Annotated[bool, Setting("--json", help="Print the report as JSON and nothing else.")] = False,
    sarif: Annotated[Path | None, Setting(help="Write the findings as SARIF 2.1.0.")] = None,
) -> None:
    """Diagnose, print, mend."""
    from torch import nn

    from batchnorm.doctor import diagnose
    from batchnorm.doctor.sarif import sarif as to_sarif
    from batchnorm.targets import CHECKPOINTS, load_factory, load_model, load_state

    if fail_on not in SEVERITIES:
        raise ValueError(f"doctor: fail-on expected one of {', '.join(SEVERITIES)}, got {fail_on!r}")
    if fix and (out is None or out.exists()):
        raise ValueError(f"doctor: out expected a new file for the mended copy, got {out}")
    alone = Path(target).suffix in CHECKPOINTS
    model = load_state("doctor", target, "target") if alone else load_model("doctor", target)
    state = None
    if weights is not None:
        if not isinstance(model, nn.Module):
            raise ValueError("doctor: weights expected a factory as target, got a checkpoint")
        state = load_state("doctor", weights)
        _load(model, state)
    report = diagnose(
        model,
        None if data is None else load_factory("doctor", "data", data)(),
        optimizer=None if optimizer is None else load_factory("doctor", "optimizer", optimizer)(model),
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
    mended = None
    if fix:
        assert out is not None
        if not isinstance(model, nn.Module):
            raise ValueError("doctor: fix expected a factory as target, got a checkpoint")
        mended = _fix(report, model, words(consent), out)
    if sarif is not None:
        write_atomic(sarif, json.dumps(to_sarif(report, target), indent=1) + "\n")
    if as_json:
        fixed = {} if mended is None else {"fix": mended.to_dict()}
        print(json.dumps({"target": target, **report.to_dict(), **fixed}, indent=1))
    else:
        _show(make_console(False), report, mended)
    left = report.findings if mended is None else mended.remaining
    if any(SEVERITIES.index(finding.severity) <= SEVERITIES.index(fail_on) for finding in left):
        raise typer.Exit(1)


def _load(model: "nn.Module", state: Any) -> None:
    """As a careless loader would; BN007 says what was missing."""
    from batchnorm.doctor.rules.bn007_buffers_missing import PREFIXES

    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    try:
        model.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ValueError(f"doctor: weights expected tensors of the model's shapes, got {error}") from error


def _fix(report: "Report", model: "nn.Module", consent: tuple[str, ...], out: Path) -> "FixReport":
    import io

    import torch

    fixed, mended = report.fix(model, consent=consent)
    if any(one.done for one in mended.mended):
        content = io.BytesIO()
        torch.save(fixed.state_dict(), content)
        write_atomic(out, content.getvalue())
    return mended


def _show(console: Console, report: "Report", mended: "FixReport | None") -> None:
    console.soft_wrap = True
    for group in _groups(report.findings):
        first = group[0]
        names = ", ".join(dict.fromkeys(finding.layer or "the model" for finding in group[:4]))
        more = f" and {len(group) - 4} more" if len(group) > 4 else ""
        colour = COLOURS[first.severity]
        console.print(
            f"[{colour}]{first.severity}[/] [bold]{first.code}[/] {first.name} ({first.state}) in "
            f"{escape(names)}{more}"
        )
        console.print(f"  {escape(first.message)}")
        if first.evidence:
            numbers = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in first.evidence.items())
            console.print(f"  evidence: {escape(numbers)}", style="dim")
        console.print(f"  fix ({first.fix.kind}): {escape(first.fix.text)}")
    if report.explanation:
        console.print(f"\n{escape(report.explanation)}")
    if mended is not None:
        console.print()
        for one in mended.mended:
            what = one.done or f"left alone: {one.reason}"
            console.print(f"{one.finding.code} {escape(one.finding.layer or '')}: {escape(what)}")
        console.print(f"after mending: {_count(mended.remaining)}")
    console.print(f"\n{_summary(report)}")


def _groups(findings: Iterable[Finding]) -> list[list[Finding]]:
    """Findings of one code and severity stand together; the first speaks for them."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.severity, finding.code), []).append(finding)
    return list(groups.values())


def _count(findings: Iterable[Finding]) -> str:
    counts = dict.fromkeys(SEVERITIES, 0)
    for finding in findings:
        counts[finding.severity] += 1
    said = [f"{number} {severity}" for severity, number in counts.items() if number]
    return ", ".join(said) or "no findings"


def _summary(report: "Report") -> str:
    seen = f"{report.layers_seen} batch-norm layers, {report.batches} training batches"
    text = f"{seen}: {_count(report.findings)}"
    if report.withdrawn:
        codes = ", ".join(dict.fromkeys(finding.code for finding in report.withdrawn))
        text += f"; withdrawn: {codes}"
    if report.skipped:
        reasons = dict.fromkeys(report.skipped.values())
        text += f"; not checked: {len(report.skipped)} rules ({'; '.join(reasons)})"
    return text
