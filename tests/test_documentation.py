"""The pages tell the truth: commands run, tables are those of the records, links lead somewhere."""

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from batchnorm.records import read_verdicts
from batchnorm.report.book import effect_words, met_words
from tests.report.synthetic_verdicts import book, verdict

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("decisions/*.md")])
PREPARATION = {"#", "git", "cd", "pip"}  # what a reader does before; a fresh clone is tried by hand
RESULTS = ROOT / "docs" / "results"
READMES = [ROOT / "README.md", ROOT / "README.zh-CN.md"]

# What makes a command short; the last of two equal options counts.
SHORT = {
    "train": [
        "--epochs=1",
        "--train-images=300",
        "--recalibration-images=300",
        "--batch-size=100",
        "--seeds=0",
    ],
    "study": ["--dry-run"],
    "bench": ["--shapes=8x4x6x6", "--pairs=1"],
}


def commands():
    for page in PAGES:
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.splitlines():
                if line.split()[:1] and line.split()[0] not in PREPARATION:
                    yield line


@pytest.mark.parametrize("line", dict.fromkeys(commands()))
def test_commands_of_the_pages_run(line, tmp_path):
    program, *arguments = shlex.split(line, comments=True)
    if program == "make":
        result = subprocess.run(["make", "-n", *arguments], cwd=ROOT, capture_output=True, text=True)
    elif program == "batchnorm":
        result = subprocess.run(
            [sys.executable, "-m", "batchnorm", *arguments, *SHORT.get(arguments[0], [])],
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
    else:
        assert program == "python", f"no way to check {line!r}"
        result = subprocess.run(
            [sys.executable, arguments[0], "--help"], cwd=ROOT, capture_output=True, text=True
        )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_to_files_lead_somewhere(page):
    text = re.sub(r"`[^`\n]*`", "", page.read_text())  # `parts[:2](x)` is code
    for target in re.findall(r"\]\(([^)#]+)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_nobody_leaves_out_the_zero_of_a_claim():
    sources = [
        path for part in ("study", "report", "cli") for path in (ROOT / "src/batchnorm" / part).glob("*.py")
    ]
    assert not [path.name for path in (*PAGES, *sources) if re.search(r"\bC[1-9]\b", path.read_text())]


def test_every_environment_variable_that_is_read_has_its_place_on_the_page():
    sources = [path for kind in ("py", "cpp", "h") for path in (ROOT / "src").rglob(f"*.{kind}")]
    read = r'(?:environ(?:\.get\(|\[)|getenv\()\s*"(\w+)"'
    names = {name for path in sources for name in re.findall(read, path.read_text())}
    page = (ROOT / "docs" / "environment.md").read_text()
    assert names <= set(re.findall(r"`(\w+)`", page))
    assert set(re.findall(r"BATCHNORM_\w+", page)) == {name for name in names if name[:10] == "BATCHNORM_"}


def script(path):
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table_of(path, function, record):
    """The Markdown table that a script makes of a record."""
    return getattr(script(path), function)(json.loads((RESULTS / record).read_text()))


def test_the_table_of_what_synchronizing_costs_is_that_of_the_record():
    page = (ROOT / "docs" / "statistics.md").read_text()
    assert table_of("benchmarks/bench_synced.py", "table", "synced.json") in page


@pytest.mark.parametrize("page", READMES, ids=lambda page: page.name)
def test_the_readmes_table_is_that_of_the_record(page):
    table = table_of("tools/book_table.py", "book_table", "book.json")
    numbers = [row.split("|", 2)[2] for row in table.splitlines()[2:]]
    for row in numbers:
        assert row in page.read_text()


def test_the_table_of_folded_networks_is_that_of_the_record():
    assert (
        table_of("tools/fold_table.py", "fold_table", "fold.json") in (ROOT / "docs" / "fold.md").read_text()
    )


def test_the_table_of_gaps_is_that_of_the_records():
    rows = [json.loads(line) for line in (RESULTS / "gap.jsonl").read_text().splitlines()]
    assert script("tools/gap_table.py").table(rows) in (ROOT / "docs" / "doctor.md").read_text()


@pytest.mark.skipif(not (RESULTS / "resnet110.json").exists(), reason="no record of ResNet-110 yet")
def test_the_table_of_a_hundred_and_ten_layers_is_that_of_the_record():
    table = table_of("tools/arms_table.py", "arms_table", "resnet110.json")
    assert table in (ROOT / "docs" / "studies.md").read_text()


def test_a_table_of_arms_has_a_row_an_arm():
    numbers = {"train_accuracy": 0.1, "test_accuracy_running": 0.1, "test_accuracy_recalibrated": 0.12345}
    summary = {"arms": {"none": {"seeds": {"0": {"loss": None, **numbers}}}}}
    rows = script("tools/arms_table.py").arms_table(summary).splitlines()
    assert rows[2] == "| none | - | 0.100 | 0.100 | 0.123 |"
    assert {row.count("|") for row in rows} == {6}


def test_the_verdicts_of_the_readme_are_those_of_the_records():
    verdicts, page = script("tools/verdict_table.py"), (ROOT / "README.md").read_text()
    assert verdicts.verdict_table(RESULTS / "studies") in page
    assert verdicts.headline(RESULTS / "studies") in page


def test_the_conditions_that_are_not_met_are_those_of_the_records():
    page = (ROOT / "docs" / "studies.md").read_text()
    assert script("tools/verdict_table.py").unmet_table(RESULTS / "studies") in page
    effects = [effect for record in read_verdicts(RESULTS / "studies") for effect in record.effects]
    met = sum(effect.met is True for effect in effects)
    assert f"Of the {len(effects)} conditions of the full run {met} are met." in page


def test_the_verdicts_of_the_chinese_readme_are_the_same():
    words = {"holds": "成立", "holds in part": "部分成立", "does not hold here": "在此不成立"}
    rows = [line.split(" | ") for line in READMES[1].read_text().splitlines() if re.match(r"\| C\d\d ", line)]
    records = read_verdicts(RESULTS / "studies")
    assert len(rows) == len(records)
    for row, record in zip(rows, records, strict=True):
        first = record.effects[0]
        assert row[0] == f"| {record.study.upper()}"
        assert row[2] == f"**{words[record.verdict]}**"
        assert row[3] == met_words(record).replace("of", "/")
        numbers = effect_words(first).replace("every value", "每个值均为").replace(" to ", " 至 ")
        assert row[4].endswith(f"：{numbers}，{len(record.seeds)} |")


def test_a_table_of_verdicts_has_a_row_a_claim(tmp_path):
    verdicts = script("tools/verdict_table.py")
    for record in (*book(), verdict(6, notes=("One.", "Two."))):
        (tmp_path / record.study).mkdir()
        (tmp_path / record.study / "verdict.json").write_text(json.dumps(record.to_dict()))
    rows = verdicts.verdict_table(tmp_path).splitlines()
    assert len(rows) == 2 + 5
    assert rows[2] == (
        "| C01 | Claim number 1. | **holds** | 1 of 2 "
        "| steps to 80 %, own best rates: 2.7 × (2.2 to 3.3), 3 |"
    )
    assert {row.count("|") for row in rows} == {6}
    assert verdicts.headline(tmp_path) == "- One.\n- Two."
    unmet = verdicts.unmet_table(tmp_path).splitlines()
    assert unmet[2] == "| C01 | a second effect | above 1 × | 0.9 × (0.8 to 1.1) |"
    assert unmet[5].startswith("| C04 | steps to 80 %, own best rates | above 1 × | not measured |")
