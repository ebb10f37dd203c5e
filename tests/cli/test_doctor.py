"""The doctor's commands as a person uses them: output, exit codes, one line for each misuse."""

import json
import os
import re
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from batchnorm.cli import app
from batchnorm.cli.app import main

SHOP = """
import torch
from torch import nn

def data():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(64, 4, generator=generator) for _ in range(20)]

def healthy():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    for x in data() * 3:
        model(x)
    with torch.no_grad():
        model[1].weight += torch.linspace(0.05, 0.15, model[1].num_features)
    return model

def sick():
    model = healthy()
    model[1].reset_running_stats()
    return model

def optimizer(model):
    return torch.optim.SGD(model.parameters(), 0.1, weight_decay=1e-4)

def biased():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    torch.save(model.state_dict(), "biased.pt")
    return model

def plain(): return nn.Linear(4, 2)
def number(): return 3
def needy(width): return nn.Linear(width, 2)
def broken(): raise KeyError("weights")
def empty(): return []
def images(): return [torch.randn(4, 3, 8, 8)] * 8
def nothing(*_): return None
def five(*_): return 5
"""


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "shop.py").write_text(SHOP)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(app.app, ["doctor", *arguments])


def test_a_sick_model_is_named_explained_and_gives_exit_code_1(shop):
    result = run("shop.py:sick", "--data", "shop.py:data")
    assert result.exit_code == 1
    assert "error BN001 stats-never-updated (confirmed) in 1" in result.output
    assert "It begins in layer 1: its statistics were never updated." in result.output
    assert "1 batch-norm layer, 20 training batches: 1 error" in result.output


def test_a_terminal_sees_the_same_words_in_colour(shop):
    from batchnorm.doctor import diagnose
    from batchnorm.targets import load_factory

    coloured = CliRunner().invoke(app.app, ["doctor", "shop.py:sick"], env={"FORCE_COLOR": "1"}).output
    assert "\x1b[1;31merror\x1b[0m" in coloured
    words = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert words == f"{diagnose(load_factory('test', 'target', 'shop.py:sick')())}\n"


def test_a_healthy_model_gives_exit_code_0(shop):
    result = run("shop.py:healthy", "--data", "shop.py:data")
    assert result.exit_code == 0, result.output
    assert "no findings" in result.output


def test_fail_on_sets_the_gravity_of_exit_code_1(shop):
    arguments = ["shop.py:healthy", "--optimizer", "shop.py:optimizer"]
    assert run(*arguments).exit_code == 0  # BN018 is for information
    assert run(*arguments, "--fail-on", "info").exit_code == 1


def test_json_is_the_report_and_nothing_else(shop):
    report = json.loads(run("shop.py:sick", "--json", "--rules", "bn001").output)
    assert [finding["code"] for finding in report["findings"]] == ["BN001"]
    assert report["target"] == "shop.py:sick"


def test_rules_can_be_ignored(shop):
    assert run("shop.py:sick", "--ignore", "BN001,BN006").exit_code == 0


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_checkpoint_alone_is_read(shop, suffix):
    path = str(shop / f"model{suffix}")
    layer = nn.BatchNorm1d(2)
    layer.running_var[0] = -1.0
    state = {f"norm.{key}": value for key, value in layer.state_dict().items()}
    save_file(state, path) if suffix == ".safetensors" else torch.save({"state_dict": state}, path)
    result = run(path)
    assert result.exit_code == 1
    assert "BN002" in result.output


def convolution():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_an_exported_program_is_read_without_running_it(shop, mode):
    model = getattr(convolution(), mode)()
    torch.export.save(torch.export.export(model, (torch.randn(2, 3, 8, 8),)), "model.pt2")
    result = run("model.pt2")
    assert result.exit_code == (mode == "train"), result.output
    assert ("BN048 export-mode (found) in 1" in result.output) == (mode == "train")
    assert "1 batch-norm layer, " in result.output


def test_statistics_in_an_exported_program_are_judged(shop):
    model = convolution().eval()
    model[1].running_var[2] = -1.0
    torch.export.save(torch.export.export(model, (torch.randn(2, 3, 8, 8),)), "model.pt2")
    assert "BN002 stats-not-finite (found) in 1" in run("model.pt2").output


@pytest.mark.parametrize("variance", [1.0, -1.0])
def test_an_onnx_file_is_read(shop, variance):
    onnx = pytest.importorskip("onnx", reason="reads the format")
    helper = onnx.helper
    value = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, [1, 2, 4, 4]) for n in "xy"]
    tensors = [
        helper.make_tensor(name, onnx.TensorProto.FLOAT, [2], [number] * 2)
        for name, number in (("s", 1.0), ("b", 0.5), ("m", 0.0), ("v", variance))
    ]
    node = helper.make_node("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], name="norm")
    onnx.save(helper.make_model(helper.make_graph([node], "g", value[:1], value[1:], tensors)), "m.onnx")
    result = run("m.onnx", "--ignore", "BN001")
    assert result.exit_code == (variance < 0), result.output
    assert ("BN002 stats-not-finite (found) in norm" in result.output) == (variance < 0)


def test_weights_are_loaded_and_what_they_lack_is_found(shop):
    parameters = {f"module.{key}": value for key, value in nn.Linear(4, 8, bias=False).state_dict().items()}
    torch.save(parameters, shop / "weights.pt")
    result = run("shop.py:healthy", "--weights", str(shop / "weights.pt"))
    assert result.exit_code == 1
    assert "BN007" in result.output


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "ema.", "module._orig_mod."])
@pytest.mark.parametrize("key", [None, "state_dict", "model", "ema"])
def test_prefixed_weights_are_understood(shop, prefix, key):
    whole = {}
    layers = {"0": nn.Linear(4, 8, bias=False), "1": nn.BatchNorm1d(8), "3": nn.Linear(8, 2)}
    for number, layer in layers.items():
        whole |= {f"{prefix}{number}.{name}": value for name, value in layer.state_dict().items()}
    whole["optimizer.0.exp_avg"] = torch.ones(2)  # as in our own checkpoints
    torch.save(whole if key is None else {"epoch": 3, key: whole}, "w.pt")
    result = run("shop.py:healthy", "--weights", "w.pt")
    assert result.exit_code == 0, result.output
    assert "BN007" not in result.output


def test_fix_writes_a_mended_copy_that_is_clean(shop):
    arguments = ["shop.py:sick", "--data", "shop.py:data", "--fix", "-o", "mended.pt"]
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "BN001 1: left alone: changes numbers: needs consent to BN001" in refused.output
    assert not (shop / "mended.pt").exists()
    mended = run(*arguments, "--consent", "BN001")
    assert mended.exit_code == 0, mended.output
    assert "  running_mean: 0 -> " in mended.output
    assert "after mending: no findings" in mended.output
    assert run("mended.pt").exit_code == 0


def test_a_file_that_cannot_be_written_does_not_cost_the_diagnosis(shop):
    for option in ("--sarif", "--html"):
        result = run("shop.py:sick", option, "nowhere/file")
        assert isinstance(result.exception, FileNotFoundError)
        assert "BN001" in result.output


def test_sarif_has_the_parts_that_readers_need(shop):
    run("shop.py:sick", "--sarif", "out.sarif")
    log = json.loads((shop / "out.sarif").read_text())
    assert log["version"] == "2.1.0"
    version = CliRunner().invoke(app.app, ["--version"]).output.split()[-1]
    assert log["runs"][0]["tool"]["driver"]["semanticVersion"] == version
    (result,) = log["runs"][0]["results"]
    rules = log["runs"][0]["tool"]["driver"]["rules"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "BN001"
    assert result["level"] == "error"
    assert result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"] == "shop.py:sick/1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["no.such:thing"],
            "target expected a module that can be imported, got no.such: ModuleNotFoundError",
        ),
        (["shop.py"], "target expected package.module:factory or file.py:factory, got 'shop.py'"),
        (["shop.py:missing"], "target expected a function 'missing' in shop.py, got none"),
        (
            ["absent.py:model"],
            "target expected a module that can be imported, got absent.py: FileNotFoundError",
        ),
        (["shop.py:broken"], "target expected shop.py:broken to work, got KeyError: 'weights'"),
        (
            ["shop.py:needy"],
            "target expected shop.py:needy to work, got TypeError: needy() missing 1 required",
        ),
        (["shop.py:number"], "target expected a factory of a torch.nn.Module, got int"),
        (["shop.py:plain"], "target expected a model with batch norm, got none in shop.py:plain"),
        (["shop.py:sick", "--data", "shop.py:empty"], "loader expected one batch or more, got none"),
        (["shop.py:sick", "--data", "shop.py:images"], "loader expected batches that the model takes, got "),
        (["nothing.pt"], "target expected a file, got none at nothing.pt"),
        (["text.pt"], "target expected a whole file of tensors, got text.pt"),
        (
            ["code.pt"],
            "expected tensors only, got code.pt with objects that would run code (torch.nn.modules",
        ),
        (["script.pt"], "target expected a file of tensors, got the TorchScript script.pt"),
        (["text.onnx"], "target expected a whole .onnx file, got text.onnx: DecodeError"),
        (["text.pt2"], "target expected a whole .pt2 file, got text.pt2: BadZipFile"),
        (["absent.pt2"], "target expected a file, got none at absent.pt2"),
        (["linear.pt"], "target expected a model with batch norm, got none in linear.pt"),
        (["shop.py:sick", "--weights", "linear.pt"], "weights expected shape (8, 4) of 0.weight, got (2, 2)"),
        (["shop.py:sick", "--rules", "BN999"], "rules expected codes as BN001, got 'BN999'"),
        (["shop.py:sick", "--fail-on", "all"], "fail-on expected one of error, warn, info, got 'all'"),
        (["linear.pt", "--fix", "-o", "new.pt"], "package.module:factory --weights linear.pt"),
        (["shop.py:sick", "--fix"], "out expected a new file for the mended copy, got none"),
        (["shop.py:sick", "-o", "new.pt"], "out expected --fix, which makes what is written, got none"),
        (
            ["shop.py:sick", "--fix", "-o", "linear.pt"],
            "out expected a new file for the mended copy, got lin",
        ),
        (
            ["norm.pt", "--data", "shop.py:data"],
            "data expected a model to run them on, got a checkpoint alone",
        ),
        (["shop.py:sick", "--fix", "-o", "a.safetensors"], "out expected to end in .pt, got a.safetensors"),
        (
            ["shop.py:sick", "--data", "shop.py:nothing"],
            "data expected shop.py:nothing to return training batches",
        ),
        (["shop.py:sick", "--data", "shop.py:five"], "loader expected an iterable of batches, got int"),
        (
            ["shop.py:sick", "--optimizer", "shop.py:five"],
            "optimizer expected a torch.optim.Optimizer, got int",
        ),
        (["shop.py:sick", "--optimizer", "shop.py:nothing"], "optimizer expected shop.py:nothing to return"),
        (["shop.py:sick", "--steps", "-5"], "steps expected 1 or more, got -5"),
        (["shop.py:sick", "--source-eps", "-1"], "source_eps expected a finite number, 0 or more, got -1.0"),
        (["shop.py:sick", "--goal", "fly"], "goal expected one of train, predict, fold, export, got 'fly'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(shop, arguments, words, monkeypatch, capsys):
    for suffix in ("pt", "pt2", "onnx"):
        (shop / f"text.{suffix}").write_text("no checkpoint")
    torch.save({"model": nn.Linear(2, 2)}, shop / "code.pt")
    torch.save(nn.Sequential(nn.Linear(2, 2)).state_dict(), shop / "linear.pt")
    torch.save(nn.BatchNorm1d(2).state_dict(), shop / "norm.pt")
    with warnings.catch_warnings(action="ignore"):
        torch.jit.script(nn.Linear(2, 2)).save(shop / "script.pt")
    monkeypatch.setattr("sys.argv", ["batchnorm", "doctor", *arguments])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert not error.startswith("Traceback")


def test_explain_prints_the_page_of_a_rule_or_the_list():
    page = CliRunner().invoke(app.app, ["explain", "bn013"])
    assert page.output.startswith("# BN013 eps-mismatch\n")
    rows = CliRunner().invoke(app.app, ["explain"], env={"COLUMNS": "200"}).output.splitlines()
    assert rows[0].split() == ["code", "name", "what", "is", "wrong"]
    assert rows[13].startswith("BN013  eps-mismatch  ")
    assert len(rows) == 1 + 50
    assert not any(mark in row for row in rows for mark in ("|", ".md", ".py"))


@pytest.mark.parametrize("code", ["BN999", "bn13"])
def test_explain_of_no_rule_is_misuse_of_explain(code):
    result = CliRunner().invoke(app.app, ["explain", code])
    assert str(result.exception) == f"explain: code expected one of the rules, as BN013, got {code!r}"


def test_a_mended_copy_with_other_tensors_says_so_when_it_is_written_and_when_it_is_read(shop):
    arguments = ["shop.py:biased", "--data", "shop.py:data", "--rules", "BN016"]
    mended = run(*arguments, "--fix", "--consent", "BN016", "-o", "mended.pt")
    assert "BN016 1: layer 0 has no bias now: build it with bias=False" in mended.output
    last = mended.output.splitlines()[-1]
    assert last == "Written to mended.pt, without 0.bias: load it into a model that is built so"
    read = run("shop.py:biased", "--weights", "mended.pt")
    assert read.stderr == (
        "! doctor: weights expected the names of this model, got mended.pt without 0.bias; what it lacks "
        "is as the factory made it\n"
    )
    more = run("shop.py:healthy", "--weights", "biased.pt")
    assert more.stderr.endswith("got biased.pt with 0.bias\n")
    assert run("shop.py:healthy", "--weights", "mended.pt").stderr == ""


def test_reports_are_written_over_what_was_there(shop):
    for name, option in (("out.sarif", "--sarif"), ("out.html", "--html")):
        (shop / name).write_text("old")
        run("shop.py:sick", option, name)
        assert "BN001" in (shop / name).read_text()


def test_help_says_what_is_written_over_and_from_which_severity_it_fails():
    words = " ".join(run("--help").output.split())
    assert "Severity from which the exit code is 1: error, warn or info." in words
    assert "New file for the mended copy's state dict, .pt; a fix may drop or add tensors." in words
    assert words.count("over the file if it exists") == 2


def test_html_is_one_page_without_scripts_or_addresses(shop):
    pytest.importorskip("vl_convert", reason="draws")
    run("shop.py:sick", "--data", "shop.py:data", "--html", "out.html")
    page = (shop / "out.html").read_text()
    assert "BN001 stats-never-updated" in page
    assert "Running over population mean of " in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=.https?:", page)


def test_sarif_fits_its_schema(shop):
    """With ``SARIF_SCHEMA``, the schema of SARIF 2.1.0, which `make sarif` fetches."""
    if "SARIF_SCHEMA" not in os.environ:
        pytest.skip("SARIF_SCHEMA names no schema")
    jsonschema = pytest.importorskip("jsonschema", reason="validates")
    run("shop.py:sick", "--data", "shop.py:data", "--optimizer", "shop.py:optimizer", "--sarif", "out.sarif")
    log = json.loads((shop / "out.sarif").read_text())
    assert log["runs"][0]["results"]
    jsonschema.validate(log, json.loads(Path(os.environ["SARIF_SCHEMA"]).read_text()))
