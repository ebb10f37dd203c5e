"""The book of results: a small static site from verdicts, an index and a page a claim."""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from batchnorm.records import VERDICTS, EffectRecord, Figure, VerdictRecord, write_atomic
from batchnorm.report import theme
from batchnorm.report.figures import panels, series_styles, spec_of
from batchnorm.report.legend import key
from batchnorm.report.parts import part
from batchnorm.report.payload import embed
from batchnorm.report.tables import settings_table
from batchnorm.report.vega import browser_bundle, for_page

__all__ = ["effect_words", "met_words", "write_book"]

_MARK = (
    '<div class="mark" role="region" aria-label="Embedded sample"><p>EMBEDDED SAMPLE. Trained and tested'
    " on the small part of Fashion-MNIST that travels in the package: the claims are tried,"
    " but do not quote these numbers.</p></div>"
)


def write_book(verdicts: Sequence[VerdictRecord], directory: Path) -> Path:
    """Write the site; it needs no network and no server.

    Args:
        verdicts: What to show.
        directory: Where ``index.html``, a page a study and what they share shall stand; made if absent.

    Returns:
        The path of ``index.html``.

    Raises:
        NotInstalledError: If the ``train`` extra is not installed.
        OSError: As the file system reports it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    files = {
        "vega.js": browser_bundle(),
        "book.js": part("page", "shared.js") + part("book", "book.js"),
        "book.css": f"{theme.stylesheet()}\n{part('page', 'report.css')}\n{part('book', 'book.css')}",
        "index.html": _index(verdicts),
    }
    for number, record in enumerate(verdicts):
        files[_address(record)] = _page(
            record, verdicts[number - 1 : number], verdicts[number + 1 : number + 2]
        )
    for name, text in files.items():
        write_atomic(directory / name, text)
    return directory / "index.html"


def _index(verdicts: Sequence[VerdictRecord]) -> str:
    counts = Counter(record.verdict for record in verdicts)
    words = [f"{verdict}: {counts[verdict]}" for verdict in VERDICTS if counts[verdict]]
    rows = "".join(map(_row, verdicts))
    profiles = sorted({f"profile {record.profile}, {_images(record)}" for record in verdicts})
    trials, cpu = (sum(getattr(record, name) for record in verdicts) for name in ("trials", "cpu_seconds"))
    body = Template(part("book", "index.html")).substitute(
        lede=f"Claims of the textbook, measured. {'; '.join(words).capitalize()}.",
        rows=rows,
        count=len(verdicts),
        made=f"From {'; '.join(profiles)}. {trials:,} trials, {_time(cpu)} of a processor.",
    )
    return _frame("What batch normalization does", body, verdicts, {})


def _row(record: VerdictRecord) -> str:
    effect = record.effects[0]
    words = [record.study, record.name, record.claim, record.hypothesis, record.verdict, *record.notes]
    words += [f"{each.name} {each.text}" for each in record.effects]
    return (
        f'<tr data-words="{escape(" ".join(words).lower())}" data-verdict="{escape(record.verdict)}">'
        f'<th scope="row"><a href="{_address(record)}">{record.study.upper()}</a></th>'
        f'<td class="words"><a href="{_address(record)}">{escape(record.claim)}</a></td>'
        f"<td>{_badge(record)}</td>"
        f"<td>{met_words(record)}</td>"
        f'<td class="words">{escape(effect.text)}: {effect_words(effect)}</td></tr>'
    )


def _page(record: VerdictRecord, before: Sequence[VerdictRecord], after: Sequence[VerdictRecord]) -> str:
    body = Template(part("book", "claim.html")).substitute(
        study=record.study.upper(),
        name=escape(record.name),
        claim=escape(record.claim),
        badge=_badge(record),
        met=met_words(record),
        seeds=f"{len(record.seeds)} seeds" if len(record.seeds) > 1 else "one seed",
        profile=escape(record.profile),
        trials=f"{record.trials:,} trials" + (f", {record.failed} failed" if record.failed else ""),
        time=_time(record.cpu_seconds),
        conditions="".join(map(_condition, record.effects)),
        notes=_notes(record),
        figures="".join(map(_figure, record.figures)),
        hypothesis=escape(record.hypothesis),
        held_equal=escape(record.held_equal),
        measure=escape(record.measure),
        against=escape(record.against),
        command=escape(record.command),
        environment=settings_table("Where it ran", record.environment),
        previous="".join(f'<a rel="prev" href="{_address(r)}">{escape(r.study.upper())}</a>' for r in before),
        next="".join(f'<a rel="next" href="{_address(r)}">{escape(r.study.upper())}</a>' for r in after),
    )
    config = theme.vega_config(theme.variable)
    charts = [
        {"chart": for_page(spec_of(figure, theme.variable), config), "rows": rows}
        for figure in record.figures
        for rows in panels(figure).values()
    ]
    return _frame(f"{record.study.upper()} {record.claim}", body, [record], {"charts": charts})


def _frame(title: str, body: str, verdicts: Sequence[VerdictRecord], data: Mapping[str, Any]) -> str:
    sample = any(record.data == "embedded-sample" for record in verdicts)
    return Template(part("book", "frame.html")).substitute(
        title=escape(title),
        kind="sample" if sample else "real",
        mark=_MARK if sample else "",
        body=body,
        data=embed(data),
        library='<script src="vega.js"></script>' if data else "",
    )


def _condition(effect: EffectRecord) -> str:
    met = {True: "met", False: "not met", None: "not measured"}[effect.met]
    bound = f"{escape(effect.side)} {_number(effect.bound)}{_unit(effect)}"
    return (
        f'<tr class="{met.replace(" ", "-")}"><th scope="row">{escape(effect.text)}</th>'
        f"<td><strong>{met}</strong></td><td>{_mean(effect)}</td>"
        f"<td>{_interval(effect)}</td><td>{bound}</td>"
        f"<td>{escape(effect.method)}, n = {len(effect.values)}</td></tr>"
    )


def effect_words(effect: EffectRecord) -> str:
    """Mean and 95 % interval, as ``≥ 2.7 × (2.2 to 3.3)``; what every value is if ``exact``."""
    if not effect.values:
        return "not measured"
    if effect.method == "exact":
        return _mean(effect)
    return f"{_mean(effect)} ({_interval(effect)})"


def _mean(effect: EffectRecord) -> str:
    if effect.method == "exact" and effect.values:
        return f"every value {_ends(effect)}"
    sign = next((sign for word, sign in _SIGNS.items() if effect.method.endswith(word)), "")
    return f"{sign}{_number(effect.mean)}{_unit(effect)}" if effect.values else "-"


_SIGNS = {"at least": "≥ ", "at most": "≤ "}


def _interval(effect: EffectRecord) -> str:
    return _ends(effect) if effect.values and effect.method != "exact" else "-"


def _ends(effect: EffectRecord) -> str:
    low, high = _number(effect.low), _number(effect.high)
    return low if effect.method == "exact" and low == high else f"{low} to {high}"


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3g}".replace("inf", "∞").replace("-", "−")


def _unit(effect: EffectRecord) -> str:
    return f" {escape(effect.unit)}" if effect.unit else ""


def _notes(record: VerdictRecord) -> str:
    return f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in record.notes)}</ul>" if record.notes else ""


def _figure(figure: Figure) -> str:
    legend = "".join(
        f'<li class="arm">{key(*style)}{escape(str(name))}</li>'
        for name, style in series_styles(figure).items()
    )
    plots = "".join(
        f'<div class="panel">{f"<h3>{escape(facet)}</h3>" if facet else ""}'
        f'<div class="plot" role="img" aria-label="{escape(_label(figure, facet, rows))}"></div>'
        f"{_absent(figure, rows)}</div>"
        for facet, rows in panels(figure).items()
    )
    return (
        f'<figure id="{escape(figure.name)}"><figcaption><strong>{escape(figure.title)}.</strong> '
        f'Band: {escape(figure.band)}.</figcaption><ul class="legend">{legend}</ul>'
        f'<div class="panels figure">{plots}</div>{_numbers(figure)}</figure>'
    )


def _absent(figure: Figure, rows: Sequence[Mapping[str, Any]]) -> str:
    """Which series of the legend a chart has no point of, so that nobody looks for them."""
    names = [name for name in series_styles(figure) if name not in {row["series"] for row in rows}]
    if not names:
        return ""
    listed = escape(", ".join(names))
    return f'<p class="note">Not drawn, for want of a number that the axes can show: {listed}.</p>'


def _label(figure: Figure, facet: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """What a chart shows, for a screen reader: where each line starts and ends, or each dot."""
    title = f"{figure.title}. {facet}".strip(" .")
    parts = []
    for name in dict.fromkeys(row["series"] for row in rows):
        own = [row for row in rows if row["series"] == name]
        told = own if figure.mark == "dot" or len(own) == 1 else [own[0], own[-1]]
        places = ", ".join(f"{_number(row['mean'])} at {_place(row['x'])}" for row in told)
        parts.append(f"{name}: {places}")
    return f"{title}. {figure.y} by {figure.x}. {'; '.join(parts)}."


def _numbers(figure: Figure) -> str:
    head = "".join(
        f'<th scope="col">{escape(word)}</th>' for word in ("series", figure.x, figure.y, "from", "to")
    )
    rows = "".join(
        f'<tr><th scope="row">{escape(_series(row))}</th>'
        f"<td>{escape(_place(row['x']))}</td>"
        f"{''.join(f'<td>{_number(row[name])}</td>' for name in ('mean', 'low', 'high'))}</tr>"
        for row in figure.rows
    )
    return (
        '<details><summary>The numbers as a table</summary><div class="scroll" tabindex="0" role="group" '
        f'aria-label="Table, scrolls sideways"><table><caption>{escape(figure.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div></details>"
    )


def _series(row: Mapping[str, Any]) -> str:
    return f"{row['series']} {row.get('facet', '')}".strip()


def _place(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _badge(record: VerdictRecord) -> str:
    return f'<span class="verdict {record.verdict.replace(" ", "-")}">{escape(record.verdict)}</span>'


def met_words(record: VerdictRecord) -> str:
    """How many of a study's conditions are met, as ``3 of 4``."""
    return f"{sum(effect.met is True for effect in record.effects)} of {len(record.effects)}"


def _images(record: VerdictRecord) -> str:
    return "the embedded sample" if record.data == "embedded-sample" else "Fashion-MNIST"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _address(record: VerdictRecord) -> str:
    return f"{record.study}-{record.name}.html"
