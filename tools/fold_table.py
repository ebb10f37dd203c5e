"""Print the table of docs/fold.md from its record.

Usage: ``python tools/fold_table.py docs/results/fold.json``.
"""

import json
import sys
from pathlib import Path


def fold_table(record: dict) -> str:
    """Markdown: a row a network, with what became of its batch norms and how far the outputs moved."""
    rows = [
        "| network | folded | alone | kept | float32 | float64 | unfolded float32 from float64 "
        "| those that stand alone: what is before and after |",
        "| --- | --: | --: | --: | --: | --: | --: | --- |",
    ]
    for row in record["networks"]:
        numbers = ("difference_float32", "difference_float64", "rounding_float32")
        reasons = "; ".join(f"{count}: {reason}" for reason, count in row["reasons"].items())
        rows.append(
            f"| {row['network']} | {row['folded']} | {row['alone']} | {row['kept']} | "
            + " | ".join(f"{row[key]:.1e}" for key in numbers)
            + f" | {reasons} |"
        )
    return "\n".join(rows)


if __name__ == "__main__":
    print(fold_table(json.loads(Path(sys.argv[1]).read_text())))
