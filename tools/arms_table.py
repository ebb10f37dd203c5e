"""Print the table of a run's arms, at the end of the first seed, from its ``summary.json``.

Usage: ``python tools/arms_table.py docs/results/resnet110.json``.
"""

import json
import sys
from pathlib import Path

COLUMNS = {
    "loss": "loss",
    "train_accuracy": "train acc",
    "test_accuracy_running": "test acc, running",
    "test_accuracy_recalibrated": "test acc, recalibrated",
}


def arms_table(summary: dict) -> str:
    """Markdown: a row an arm; a loss that was lost is a dash."""
    rows = [f"| arm | {' | '.join(COLUMNS.values())} |", f"| --- |{' --: |' * len(COLUMNS)}"]
    for arm, found in summary["arms"].items():
        result = next(iter(found["seeds"].values()))
        numbers = ("-" if result[key] is None else f"{result[key]:.3f}" for key in COLUMNS)
        rows.append(f"| {arm} | {' | '.join(numbers)} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(arms_table(json.loads(Path(sys.argv[1]).read_text())))
