"""The command as a person uses it; the measuring is replaced where only the printing matters."""

import dataclasses
import io
import json
import os
import subprocess
import sys

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from batchnorm import bench
from batchnorm.cli import app
from batchnorm.cli import bench as command
from batchnorm.records import BenchRecord
from tests.records.test_bench import RECORD, WRONG

SMALL = ["bench", "--shapes", "4x3x5x5,8x3", "--cases", "relu", "--peers", "copy", "--pairs", "1"]


@pytest.fixture
def invoke(monkeypatch):
    """Run the command in this process with given records; also says which plan it made."""

    def invoke(records, *arguments):
        plans = []

        def run_bench(plan):
            plans.append(plan)
            yield from records

        monkeypatch.setattr(bench, "run_bench", run_bench)
        result = CliRunner().invoke(app.app, ["bench", *arguments])
        return result, plans

    return invoke


def test_the_defaults_measure_every_case_and_the_six_shapes(invoke):
    result, [plan] = invoke([RECORD])
    assert result.exit_code == 0, result.output
    assert len(plan.shapes) == 6
    assert plan.cases == ("forward", "forward+backward", "relu", "add+relu", "sigmoid", "predict")
    assert (plan.dtypes, plan.layouts) == (("float32",), ("contiguous", "channels_last"))
    assert (plan.threads, plan.huge_pages, plan.peers, plan.pairs) == ((1,), (True,), ("torch", "copy"), 11)


def test_lists_are_read_and_all_threads_are_the_cores(invoke):
    arguments = ["--threads", "1,all", "--huge-pages", "on, off", "--shapes", "8x3,4x3x2"]
    _, [plan] = invoke([RECORD], *arguments)
    assert plan.threads == tuple(dict.fromkeys((1, os.cpu_count())))
    assert plan.huge_pages == (True, False)
    assert plan.shapes == ((8, 3), (4, 3, 2))


def test_the_table_has_a_row_a_setting_and_a_column_a_layout_and_peer(invoke):
    records = [
        RECORD,
        dataclasses.replace(RECORD, shape=(8, 8), ratio=0.5),
        dataclasses.replace(RECORD, peer="copy", ratio=0.9),
        dataclasses.replace(RECORD, layout="channels_last", ratio=3.0),
        dataclasses.replace(RECORD, threads=2, huge_pages=False, ratio=4.0),
    ]
    result, _ = invoke(records)
    header, first, second, footer = result.stdout.splitlines()
    assert [word.strip() for word in header.split("  ") if word] == [
        "case", "dtype", "threads", "huge pages", "contiguous / torch", "contiguous / copy",
        "channels_last / torch",
    ]  # fmt: skip
    assert [word.strip() for word in first.split("  ") if word] == [
        "relu", "float32", "1", "on", "1.00 (0.50 at 8x8)", "0.90 (0.90 at 64x16x8x8)",
        "3.00 (3.00 at 64x16x8x8)",
    ]  # fmt: skip
    assert second.split() == ["relu", "float32", "2", "off", "4.00", "(4.00", "at", "64x16x8x8)"]
    assert footer == "Seconds of the peer over ours (native): geometric mean of the shapes (worst)."


def test_memory_is_shown_where_it_was_counted(invoke):
    record = dataclasses.replace(RECORD, device="cuda", memory=3e6, peer_memory=4e6)
    result, _ = invoke([record])
    assert "2.00 (2.00 at 64x16x8x8), memory 0.75" in result.stdout
    assert "ours over the peer's" in result.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_device_that_is_not_there_gets_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["batchnorm", "bench", "--device", "cuda"])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    assert capsys.readouterr() == (
        "",
        "batchnorm: error: bench: device expected cpu, or cuda on a machine with a CUDA device, got cuda\n",
    )


def test_a_gpu_is_measured_with_its_own_shapes_dtype_and_peers(invoke, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    _, [plan] = invoke([RECORD], "--device", "cuda")
    assert (plan.device, plan.dtypes, plan.peers) == ("cuda", ("bfloat16",), ("torch", "compile", "copy"))
    assert (256, 2048, 7, 7) in plan.shapes


def test_a_wrong_result_shows_no_ratio_and_exits_1(invoke):
    result, _ = invoke([RECORD, WRONG])
    assert result.exit_code == 1
    assert "WRONG at 2x2" in result.stdout
    assert "2.00" not in result.stdout


def test_a_wrong_result_exits_1_with_json_too(invoke):
    result, _ = invoke([WRONG], "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["records"][0]["ratio"] is None


def test_json_is_the_records_with_the_environment_and_the_file_has_the_same(tmp_path):
    arguments = [sys.executable, "-m", "batchnorm", *SMALL, "--json", "-o", "here.json"]
    result = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed == json.loads((tmp_path / "here.json").read_text())
    assert printed["environment"]["torch"]
    assert "threads" not in printed["environment"]
    records = [BenchRecord.from_dict(row) for row in printed["records"]]
    assert [row.shape for row in records] == [(4, 3, 5, 5), (4, 3, 5, 5), (8, 3)]
    for row in records:
        assert row.correct
        assert row.ratio == row.peer_seconds / row.seconds > 0
    assert result.stderr == ""


def test_a_file_is_replaced_only_by_force(invoke, tmp_path):
    path = tmp_path / "old.json"
    path.write_text("old")
    result, plans = invoke([RECORD], "--out", str(path))
    assert isinstance(result.exception, ValueError)
    assert str(result.exception) == f"bench: out expected a new file, or --force, got {path}"
    assert plans == []
    assert path.read_text() == "old"
    invoke([RECORD], "--out", str(path), "--force")
    assert json.loads(path.read_text())["records"] == [RECORD.to_dict()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shapes", "4xa"], "bench: shapes expected sizes as 64x64x56x56, got '4xa'"),
        (["--shapes", ""], "bench: shapes expected at least one, got none"),
        (["--cases", "fast"], "bench: cases expected some of forward, forward+backward, relu, add+relu,"),
        (["--device", "tpu"], "bench: device expected cpu, or cuda on a machine with a CUDA device, got tpu"),
        (["--threads", "0"], "bench: threads expected integers >= 1, got 0"),
        (["--threads", "many"], "bench: threads expected numbers or all, got 'many'"),
        (["--huge-pages", "maybe"], "bench: huge_pages expected on, off or both, got 'maybe'"),
        (["--out", "/", "--force"], "bench: out expected a file, got the directory /"),
        (["--out", "/nowhere/a"], "bench: out expected a file in a directory that exists, got /nowhere/a"),
    ],
)
def test_a_bad_argument_is_named(invoke, arguments, message):
    result, plans = invoke([RECORD], *arguments)
    assert isinstance(result.exception, ValueError)
    assert str(result.exception).startswith(message)
    assert plans == []


def test_bad_input_gets_one_line_and_exit_code_2(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["batchnorm", *SMALL, "--dtypes", "int8"])
    with pytest.raises(SystemExit) as stop:
        app.main()
    assert stop.value.code == 2
    assert capsys.readouterr() == (
        "",
        "batchnorm: error: bench: dtypes expected some of float32, bfloat16, float16, float64, got int8\n",
    )


def test_a_terminal_sees_the_last_result_and_how_far_it_is():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    assert list(command._watch([RECORD, WRONG], 2, console)) == [RECORD, WRONG]
    assert "2/2 relu 2x2 float32 contiguous torch WRONG" in screen.getvalue()


def test_help_does_not_load_torch():
    code = (
        "import sys; sys.argv = ['batchnorm', 'bench', '--help']\n"
        "try:\n    import batchnorm.cli; batchnorm.cli.main()\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
