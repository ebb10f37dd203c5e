"""Tables of any width, and the end of a training run in the textbook's words."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from batchnorm.records import EpochRecord, LayerRecord, RunRecord
from batchnorm.report import tables

__all__ = ["SAMPLE", "print_table", "show"]

SAMPLE = Text.assemble(("EMBEDDED SAMPLE", "bold yellow"), ": 6,000 images, not Fashion-MNIST's 60,000")

_COLUMNS = {
    "loss": "loss",
    "train_accuracy": "train acc",
    "test_accuracy_running": "test acc, running",
    "test_accuracy_recalibrated": "test acc, recalibrated",
    "images_per_second": "examples/sec",
}


def print_table(
    console: Console, titles: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1
) -> None:
    """Print rows under their titles or, where that would cut a word, each row as lines of ``title: cell``.

    The first column has names, which are folded; the other columns break between words only.

    Args:
        console: Where to print.
        titles: Of the columns.
        rows: A cell for each title; an empty one takes no line.
        left: So many columns are words and stand at the left, the others are numbers.
    """
    rows = list(rows)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for place, title in enumerate(titles):
        table.add_column(
            title,
            justify="left" if place < left else "right",
            overflow="fold" if place == 0 else "ellipsis",
        )
    for row in rows:
        table.add_row(*row)
    shown = (segment.text for line in console.render_lines(table, pad=False) for segment in line)
    if _characters(shown) == _characters(cell for row in (titles, *rows) for cell in row):
        console.print(table)
        return
    for row in rows:
        for title, cell in zip(titles, row, strict=True):
            if cell:
                console.print(Text.assemble((title, "bold"), f": {cell}"), soft_wrap=True)
        console.print()


def _characters(texts: Iterable[str]) -> list[str]:
    """All but the white space, in an order that does not depend on where lines end."""
    return sorted("".join("".join(texts).split()))


def show(console: Console, run: RunRecord, directory: Path, page: Path | None) -> None:
    """Print the table, gamma and beta of the first layer with the first seed, and where everything is.

    Args:
        console: Where to print.
        run: A finished run.
        directory: Of the run.
        page: The report, if it could be written.
    """
    if run.data == "embedded-sample":
        console.print(SAMPLE)
    rows = []
    for arm in run.arms:
        last = [run.curve(arm, seed)[-1] for seed in run.seeds(arm)]
        rows.append((arm, *(_cell(last, name) for name in _COLUMNS)))
    print_table(console, ("arm", *_COLUMNS.values()), rows)
    if any("†" in text for row in rows for text in row):
        console.print("† without seeds that diverged")
    for row in _first_layers(run):
        seed = f" seed {row.seed}" if len(run.seeds(row.arm)) > 1 else ""
        if row.weight is not None:
            console.print(f"{row.arm}{seed} {row.layer} gamma {_vector(row.weight)}")
        if row.bias is not None:
            console.print(f"{row.arm}{seed} {row.layer} beta  {_vector(row.bias)}")
    console.print(f"records {directory}", soft_wrap=True)
    if page is not None:
        console.print(f"report  {page}", soft_wrap=True)


def _cell(rows: list[EpochRecord], name: str) -> str:
    form = ",.0f" if name == "images_per_second" else ".3f"
    return tables.cell((getattr(row, name) for row in rows), form)


def _first_layers(run: RunRecord) -> list[LayerRecord]:
    """Last state of the first normalization layer, of each arm's first seed."""
    rows: dict[str, LayerRecord] = {}
    for arm in run.arms:
        seed = run.seeds(arm)[0]
        layers = [row for row in run.layers if row.arm == arm and row.seed == seed]
        if layers:
            first = layers[0].layer
            rows[arm] = [row for row in layers if row.layer == first][-1]
    return list(rows.values())


def _vector(values: tuple[float, ...]) -> str:
    form = tables.short(".4f", values)
    shown = ", ".join(format(value, form) for value in values[:16])
    return f"[{shown}{', …' if len(values) > 16 else ''}]"
