"""Print the README's table of the textbook's experiment from a run's ``summary.json``.

Usage: ``python tools/book_table.py docs/results/book.json``.
"""

import json
import statistics
import sys
from pathlib import Path

LAST_EPOCHS = 5


def book_table(summary: dict) -> str:
    """Markdown: a row a seed of the arm ``batch``, then mean ± standard deviation over the seeds."""
    rows = [
        "| seed | loss | train acc | test acc, running | test acc, recalibrated | last 5 epochs, running "
        "| last 5 epochs, recalibrated |",
        "| --- | --: | --: | --: | --: | --: | --: |",
    ]
    table = []
    for seed, result in summary["arms"]["batch"]["seeds"].items():
        tail = result["epochs"][-LAST_EPOCHS:]
        numbers = [
            result["loss"],
            result["train_accuracy"],
            result["test_accuracy_running"],
            result["test_accuracy_recalibrated"],
            statistics.fmean(row["test_accuracy_running"] for row in tail),
            statistics.fmean(row["test_accuracy_recalibrated"] for row in tail),
        ]
        table.append(numbers)
        rows.append(f"| {seed} | " + " | ".join(f"{number:.3f}" for number in numbers) + " |")
    spread = [
        f"{statistics.fmean(column):.3f} ± {statistics.stdev(column):.3f}"
        for column in zip(*table, strict=True)
    ]
    rows.append("| **mean ± sd** | " + " | ".join(spread) + " |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(book_table(json.loads(Path(sys.argv[1]).read_text())))
