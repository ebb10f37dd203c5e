"""recalibrate, fold and export as a person uses them, on a file of factories."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import batchnorm as bn
from batchnorm.cli import app
from batchnorm.targets import load_model

FILE = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))

def data():
    torch.manual_seed(1)
    return [(torch.randn(64, 1, 6, 6) * 2 + 3, torch.zeros(64)) for _ in range(3)]

def once():
    return iter(data())

def empty():
    return []

def dicts():
    return [{"input": x} for x, _ in data()]

def failing():
    yield from data()
    raise KeyError("gone")

class Failing:
    def __iter__(self):
        return failing()

class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return (x for x, _ in data())

def stream():
    return torch.utils.data.DataLoader(Stream(), batch_size=None)

def number():
    return 3

def leaves():
    raise SystemExit

def lazy():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d())

def apart():
    return nn.Sequential(nn.BatchNorm2d(1), nn.ReLU())

def half():
    return model().bfloat16()

def halves():
    return [x.bfloat16() for x, _ in data()]

class Two(nn.Module):
    def forward(self, x, y):
        return x + y

class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
    def forward(self, x):
        return {"a": self.norm(x)}["b"]

class Hidden(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.hidden = torch.rand(1)
    def forward(self, x):
        return self.norm(x) * self.hidden
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    (tmp_path / "net.py").write_text(FILE)
    (tmp_path / "here.safetensors").mkdir()
    monkeypatch.chdir(tmp_path)

    def run(line, error=None):
        result = CliRunner().invoke(app.app, line.split())
        if error is None:
            assert result.exit_code == 0, result.exception
        else:
            assert isinstance(result.exception, ValueError), result.output
            assert error in str(result.exception)
        return result

    return run


def test_fold_writes_what_a_folded_model_reads(run, tmp_path):
    result = run("fold net.py:model -o out.safetensors --input 2x1x6x6")
    assert "1 folded, 0 alone, 0 kept" in result.output
    with safe_open("out.safetensors", "pt") as file:
        assert json.loads(file.metadata()["batchnorm.fold"])["folded"] == {"1": ["0"]}
    model = load_model("fold", "net.py:model").eval()
    folded, _ = bn.fold(model)
    folded.load_state_dict(load_file("out.safetensors"))
    x = torch.randn(5, 1, 6, 6)
    torch.testing.assert_close(folded(x), model(x))


def test_fold_as_json_with_weights_and_the_first_batch(run):
    model = load_model("fold", "net.py:model")
    model[1].running_mean.fill_(2.0)
    save_file(model.state_dict(), "w.safetensors")
    result = run("fold net.py:model -o out.safetensors --weights w.safetensors --data net.py:data --json")
    report = json.loads(result.output)
    assert report["folded"] == {"1": ["0"]}
    assert report["difference"] < 1e-6
    plain = run("fold net.py:model -o plain.safetensors --no-verify --json")
    assert json.loads(plain.output)["difference"] is None
    assert not torch.equal(load_file("out.safetensors")["0.bias"], load_file("plain.safetensors")["0.bias"])


def test_broken_statistics_and_foreign_weights_are_one_line(run):
    model = load_model("fold", "net.py:model")
    state = model.state_dict()
    line = "fold net.py:model -o out.safetensors --weights w.safetensors --input 2x1x6x6"
    for name, value, words in (
        ("1.running_mean", float("nan"), "running statistics of 1 expected finite numbers"),
        ("1.running_var", -1.0, "running_var of 1 expected numbers >= 0, got -1"),
    ):
        save_file({**state, name: torch.full((4,), value)}, "w.safetensors")
        run(line, words)
    save_file({"other": torch.ones(1)}, "w.safetensors")
    run(line, "weights expected the names of this model")
    with pytest.raises(FileNotFoundError):
        load_file("out.safetensors")


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("columns", ["0", "40"])
@pytest.mark.parametrize("command", ["fold -o out.safetensors", "export -o out.pt2 --no-verify"])
def test_a_reason_is_one_line_in_any_width(run, monkeypatch, command, columns, terminal):
    monkeypatch.setenv("COLUMNS", columns)
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
    result = run(f"{command} net.py:apart --input 1x1x6x6")
    assert "alone: 0: follows an input; feeds 1 (ReLU)" in result.output.splitlines()


@pytest.mark.parametrize("suffix", ["pt2", "onnx"])
def test_export(run, suffix):
    if suffix == "onnx":
        pytest.importorskip("onnxruntime", reason="pip install 'batchnorm[onnx]'")
        pytest.importorskip("onnxscript", reason="pip install 'batchnorm[onnx]'")
    result = run(f"export net.py:model -o out.{suffix} --input 1x1x6x6 --json")
    report = json.loads(result.output)
    assert report["fold"]["folded"] == {"1": ["0"]}
    assert report["difference"] < 1e-4
    run(f"export net.py:model -o out.{suffix} --input 1x1x6x6", "out expected a new file, or --force")
    result = run(f"export net.py:model -o out.{suffix} --input 1x1x6x6 --keep-bn --force --no-verify")
    assert f"Written to out.{suffix}" in result.output


def test_recalibrate_writes_the_new_statistics_and_keeps_the_old(run):
    result = run("recalibrate net.py:model --data net.py:data -o out.safetensors")
    assert "layerwise" in result.output
    model = load_model("fold", "net.py:model")
    bn.recalibrate(model, torch.cat([x for x, _ in load_data()]).split(64))
    new, old = load_file("out.safetensors"), load_file("out.before.safetensors")
    torch.testing.assert_close(new["1.running_mean"], model[1].running_mean)
    torch.testing.assert_close(new["1.running_var"], model[1].running_var)
    assert old["1.running_mean"].tolist() == [0.0] * 4
    result = run("recalibrate net.py:model --data net.py:data -o out.safetensors --force --json --batches 2")
    assert json.loads(result.output)["layers"][0]["batches"] == 2


@pytest.mark.parametrize("data", ["dicts", "stream"])
def test_recalibrate_takes_keyword_arguments_and_streams(run, data):
    run("recalibrate net.py:model --data net.py:data -o out.safetensors")
    run(f"recalibrate net.py:model --data net.py:{data} -o other.safetensors")
    new, other = load_file("out.safetensors"), load_file("other.safetensors")
    assert torch.equal(new["1.running_var"], other["1.running_var"])


def test_json_has_no_numbers_that_json_lacks(run):
    result = run("recalibrate net.py:model --data net.py:data -o out.safetensors --batches 1 --json")
    assert json.loads(result.output, parse_constant=pytest.fail)["layers"][0]["standard_error"] is None


def test_export_to_onnx_of_what_onnxruntime_cannot_run(run):
    pytest.importorskip("onnxscript", reason="pip install 'batchnorm[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'batchnorm[onnx]'")
    line = "export net.py:half -o out.onnx --data net.py:halves"
    run(line, "export: model on torch.bfloat16 expected to run in onnxruntime, got ")
    assert "Written to out.onnx" in run(f"{line} --no-verify").output


def test_export_to_onnx_says_nothing_of_torchs(run, caplog):
    pytest.importorskip("onnxscript", reason="pip install 'batchnorm[onnx]'")
    pytest.importorskip("onnxruntime", reason="pip install 'batchnorm[onnx]'")
    run("export net.py:model -o out.onnx --input 1x1x6x6")
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []


def load_data():
    from batchnorm.targets import load_factory

    return load_factory("fold", "data", "net.py:data")()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("fold net.py:model -o out.pt --input 1x1x6x6", "out expected to end in .safetensors, got out.pt"),
        (
            "fold net.py:model -o here.safetensors --force --input 1x1x6x6",
            "out expected a file, got the directory",
        ),
        ("fold net.py:model -o absent/out.safetensors --input 1x1x6x6", "a directory that exists"),
        ("fold net.py:model -o out.safetensors", "verify expected --input 1x3x224x224 or --data"),
        (
            "fold net.py:model -o out.safetensors --input 1xa",
            "sizes as 1x3x224x224, got '1xa'",
        ),
        ("fold net.py:model -o out.safetensors --input 1x0", "input expected sizes of at least 1, got '1x0'"),
        (
            "fold net.py:model -o out.safetensors --data net.py:empty",
            "data expected batches that are",
        ),
        ("fold net.py:model -o out.safetensors --data net.py:number", "data expected an iterable of batches"),
        ("fold net.py:Hidden -o out.safetensors --input 1x1x6x6", "difference expected at most 0.0001"),
        (
            "fold net.py:model -o out.safetensors --input 1x1x6x6 --tolerance 0",
            "expected at most 0 ",
        ),
        ("export net.py:model -o out.bin --input 1x1x6x6", "out expected to end in .onnx or .pt2"),
        ("export net.py:model -o out.pt2", "input expected --input 1x3x224x224 or --data"),
        ("fold net.py:leaves -o out.safetensors --input 1x1x6x6", "net.py:leaves to work, got SystemExit"),
        ("recalibrate net.py:model --data net.py:leaves -o out.safetensors", "to work, got SystemExit"),
        ("fold net.py:lazy -o out.safetensors --input 1x1x6x6", "initialized parameters, got lazy 0.weight"),
        (
            "recalibrate net.py:lazy --data net.py:data -o out.safetensors",
            "initialized parameters, got lazy 0.weight",
        ),
        ("fold net.py:Two -o out.safetensors --input 1x3", "runs on the input, got TypeError: "),
        ("fold net.py:Wrong -o out.safetensors --input 1x1x2x2", "runs on the input, got KeyError: 'b'"),
        ("export net.py:Wrong -o out.pt2 --input 1x1x2x2", "runs on the input, got KeyError: 'b'"),
        ("recalibrate net.py:Wrong --data net.py:data -o out.safetensors", "runs on the data, got KeyError"),
        (
            "recalibrate net.py:model --data net.py:Failing -o out.safetensors",
            "batches, got KeyError: 'gone'",
        ),
        (
            "recalibrate net.py:model --data net.py:failing -o out.safetensors --method onepass",
            "batches, got KeyError: 'gone'",
        ),
        ("fold net.py:model -o out.safetensors --data net.py:failing --tolerance -1", "tolerance expected"),
        (
            "recalibrate net.py:model --data net.py:data -o out.safetensors --device zoo",
            "of this machine, got",
        ),
        ("recalibrate net.py:model --data net.py:once -o out.safetensors", "can be passed over again"),
        ("recalibrate net.py:model --data net.py:empty -o out.safetensors", "recalibrate: "),
    ],
)
def test_misuse_is_one_line_and_writes_nothing(run, tmp_path, line, words):
    run(line, words)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == []
