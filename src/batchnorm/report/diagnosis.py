"""The page of a diagnosis: findings, layers with the worst first, running against measured statistics."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from batchnorm.records import SEVERITIES, LayerRecord
from batchnorm.report import charts, tables, theme
from batchnorm.report.parts import part
from batchnorm.report.pictures import bounds_of
from batchnorm.report.vega import vl_convert

__all__ = ["render_diagnosis"]

SHOWN = 8  # layers with a picture; the table has all of them
_STATISTICS = (("mean", "mean"), ("var", "variance"))
_COLOURS = {"error": "alert", "warn": "orange", "info": "blue"}
_SIZE = 220


def render_diagnosis(target: str, diagnosis: Mapping[str, Any], channels: Sequence[LayerRecord]) -> str:
    """The page as HTML, without scripts and without any address that a browser would fetch.

    Args:
        target: What was diagnosed.
        diagnosis: The report as plain JSON values, ``Report.to_dict()``.
        channels: Running and measured statistics by layer, ``Report.channels``; empty without data.

    Raises:
        NotInstalledError: If there are channels to draw and the ``train`` extra is not installed.
    """
    findings, layers = diagnosis["findings"], diagnosis["layers"]
    worst = sorted(layers, key=lambda layer: -(layer["own"] or 0.0))
    known = {record.layer: record for record in channels}
    drawn = [known[layer["layer"]] for layer in worst if layer["layer"] in known][:SHOWN]
    return Template(part("page", "diagnosis.html")).substitute(
        title=f"{escape(target)}: {_counts(findings)}",
        target=escape(target),
        counts=_counts(findings),
        lede=f"Batch-norm layers: {diagnosis['layers_seen']}; training batches: {diagnosis['batches']}.",
        findings="".join(map(_finding, findings)) or "<p>Nothing was found.</p>",
        explanation=f"<pre>{escape(diagnosis['explanation'])}</pre>" if diagnosis["explanation"] else "",
        strip=_strip(worst) if worst else f"<p>{_unmeasured(diagnosis)}</p>",
        to_channels=' <a href="#channels">Channels</a>' if drawn else "",
        channels=_channels(drawn) if drawn else "",
        rest=_rest(diagnosis),
        colours=theme.stylesheet(),
        style=part("page", "report.css") + part("page", "diagnosis.css"),
    )


def _counts(findings: Sequence[Mapping[str, Any]]) -> str:
    grave = [finding["severity"] for finding in findings]
    return ", ".join(f"{grave.count(s)} {s}" for s in SEVERITIES if s in grave) or "no findings"


def _finding(finding: Mapping[str, Any]) -> str:
    numbers = ", ".join(
        f"{key.replace('_', ' ')} {value if isinstance(value, str) else format(value, '.10g')}"
        for key, value in finding["evidence"].items()
    )
    where = "the model" if finding["layer"] is None else finding["layer"] or "the layer"
    return (
        f'<article style="--accent: var(--{_COLOURS[finding["severity"]]})">'
        f"<h3>{finding['severity']} {finding['code']} {escape(finding['name'])} "
        f'<span class="at">in <code>{escape(where)}</code>, {finding["state"]}</span></h3>'
        f"<p>{escape(finding['message'])}</p>"
        + (f'<p class="note">Evidence: {escape(numbers)}</p>' if numbers else "")
        + f"<p>Fix ({finding['fix']['kind']}): {escape(finding['fix']['text'])}.</p></article>"
    )


def _strip(layers: Sequence[Mapping[str, Any]]) -> str:
    rows = "".join(
        f'<tr><th scope="row"><code>{escape(layer["layer"] or "(the model)")}</code></th>'
        f'<td><span class="bar-of" style="--share: {_share(layer["own"]):.0%}"></span></td>'
        f"{''.join(f'<td>{_number(layer[key])}</td>' for key in ('own', 'prediction', 'size', 'worst'))}</tr>"
        for layer in layers
    )
    heads = "".join(
        f'<th scope="col">{words}</th>'
        for words in ("own gap", "gap in prediction", "size in σ", "worst channel")
    )
    return (
        '<div class="scroll" tabindex="0" role="group" aria-label="Table, scrolls sideways">'
        f'<table class="numbers strip"><thead><tr><th scope="col">layer</th><td></td>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _unmeasured(diagnosis: Mapping[str, Any]) -> str:
    """Why there are no gaps."""
    if not diagnosis["batches"]:
        return "Gaps are measured on training data, and there were none."
    few = (reason for reason in diagnosis["skipped"].values() if "batches or more" in reason)
    return next((f"A gap {escape(reason)}." for reason in few), "No layer had a gap that could be measured.")


def _share(ratio: float | None) -> float:
    """Length of a bar: nothing at 1, which is healthy, whole at 100; on a logarithmic scale."""
    return 1.0 if ratio is None else min(1.0, max(0.0, math.log10(max(ratio, 1.0)) / 2))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _channels(records: Sequence[LayerRecord]) -> str:
    return (
        '<section id="channels" aria-labelledby="channels-head"><h2 id="channels-head">Channels</h2>'
        '<p class="note">The worst layers: a point is a channel, its running statistic over the one measured '
        "on the training batches. On the line they agree.</p>"
        f"{''.join(map(_pictures, records))}</section>"
    )


def _pictures(record: LayerRecord) -> str:
    panels = "".join(_agreement(record, name, words) for name, words in _STATISTICS)
    name = f"<code>{escape(record.layer or '(the model)')}</code>"
    kinds = [(kind, *statistic) for statistic in _STATISTICS for kind in ("running", "population")]
    columns = [getattr(record, f"{kind}_{statistic}") for kind, statistic, _ in kinds]
    heads = ["channel", *(f"{kind} {words}" for kind, _, words in kinds)]
    body = [[str(channel), *map(_number, row)] for channel, row in enumerate(zip(*columns, strict=True))]
    return (
        f'<h3>{name}</h3><div class="panels">{panels}</div>'
        f"<details><summary>The channels of {name} as a table</summary>"
        f"{tables.table(name, heads, body)}</details>"
    )


def _agreement(record: LayerRecord, name: str, words: str) -> str:
    pairs = zip(getattr(record, f"running_{name}"), getattr(record, f"population_{name}"), strict=True)
    finite = [pair for pair in pairs if all(map(math.isfinite, pair))]
    row = {
        "arm": "batch",
        f"running_{name}": [p[0] for p in finite],
        f"population_{name}": [p[1] for p in finite],
    }
    look = charts.Look(("batch",), theme.variable, many_seeds=False, interactive=True)
    bounds = bounds_of((value for pair in finite for value in pair), 0.06)
    spec = {
        **charts.agreement(name, look, bounds),
        "data": {"values": [row]},
        "width": _SIZE,
        "height": _SIZE,
        "config": theme.vega_config(theme.variable),
    }
    sides = [f"{_number(min(side))} to {_number(max(side))}" for side in zip(*finite, strict=True)]
    label = (
        f"Running over population {words} of {len(finite)} channels: {' over '.join(sides) or 'none finite'}"
    )
    lost = len(getattr(record, f"running_{name}")) - len(finite)
    note = f", without {lost} that are not finite" if lost else ""
    svg = vl_convert().vegalite_to_svg(spec)
    return f'<div class="panel"><h4>{words}{note}</h4><div role="img" aria-label="{label}">{svg}</div></div>'


def _rest(diagnosis: Mapping[str, Any]) -> str:
    taken_back = [f"{f['code']} {f['layer'] or ''}: {f['message']}" for f in diagnosis["withdrawn"]]
    skipped = [f"{code}: {reason}" for code, reason in diagnosis["skipped"].items()]
    unseen = [f"{name or 'the model'}: {reason}" for name, reason in diagnosis["unseen"].items()]
    parts = (
        ("Suspicions that were taken back", taken_back),
        ("Rules that were not checked", skipped),
        ("Modules that were not looked into", unseen),
    )
    return "".join(
        f"<details><summary>{words}: {len(lines)}</summary>"
        f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul></details>"
        for words, lines in parts
        if lines
    )
