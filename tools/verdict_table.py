"""Print the README's tables of the studies' verdicts, and that of docs/studies.md, from their records.

Usage: ``python tools/verdict_table.py docs/results/studies``.
"""

import sys
from pathlib import Path

from batchnorm.records import VerdictRecord, read_verdicts
from batchnorm.report.book import effect_words, met_words


def verdict_table(studies: Path) -> str:
    """Markdown: a row a claim, with its first effect."""
    return "\n".join(
        [
            "| | claim | verdict | conditions met | first effect: mean (95 % interval), seeds |",
            "| --- | --- | --- | --: | --- |",
            *map(_row, read_verdicts(studies)),
        ]
    )


def _row(record: VerdictRecord) -> str:
    effect = record.effects[0]
    measured = f"{effect.text}: {effect_words(effect)}, {len(record.seeds)}"
    cells = (record.study.upper(), record.claim, f"**{record.verdict}**", met_words(record))
    return f"| {' | '.join((*cells, measured))} |"


def unmet_table(studies: Path) -> str:
    """Markdown: a row a condition that is not met."""
    rows = ["| | effect | must lie | mean (95 % interval) |", "| --- | --- | --- | --- |"]
    for record in read_verdicts(studies):
        for effect in record.effects:
            if effect.met is not True:
                bound = f"{effect.side} {effect.bound:g}{effect.unit and ' '}{effect.unit}"
                rows.append(f"| {record.study.upper()} | {effect.text} | {bound} | {effect_words(effect)} |")
    return "\n".join(rows)


def headline(studies: Path) -> str:
    """What C06 found on the textbook's unstable test accuracy, as a Markdown list."""
    (prediction,) = (record for record in read_verdicts(studies) if record.study == "c06")
    return "\n".join(f"- {note}" for note in prediction.notes)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    print(verdict_table(directory), headline(directory), unmet_table(directory), sep="\n\n")
