"""The doctor's commands as a person uses them: output, exit codes, one line for each misuse."""

import json

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
        model[1].weight.fill_(1.1)
    return model

def sick():
    model = healthy()
    model[1].reset_running_stats()
    return model

def optimizer(model):
    return torch.optim.SGD(model.parameters(), 0.1, weight_decay=1e-4)

def plain(): return nn.Linear(4, 2)
def number(): return 3
def needy(width): return nn.Linear(width, 2)
def broken(): raise KeyError("weights")
def empty(): return []
def images(): return [torch.randn(4, 3, 8, 8)] * 8
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
    assert "1 batch-norm layers, 20 training batches: 1 error" in result.output


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


def test_weights_are_loaded_and_what_they_lack_is_found(shop):
    parameters = {f"module.{key}": value for key, value in nn.Linear(4, 8, bias=False).state_dict().items()}
    torch.save(parameters, shop / "weights.pt")
    result = run("shop.py:healthy", "--weights", str(shop / "weights.pt"))
    assert result.exit_code == 1
    assert "BN007" in result.output


def test_fix_writes_a_mended_copy_that_is_clean(shop):
    arguments = ["shop.py:sick", "--data", "shop.py:data", "--fix", "-o", "mended.pt"]
    refused = run(*arguments)
    assert refused.exit_code == 1
    assert "BN001 1: left alone: changes numbers: needs consent to BN001" in refused.output
    assert not (shop / "mended.pt").exists()
    mended = run(*arguments, "--consent", "BN001")
    assert mended.exit_code == 0, mended.output
    assert "after mending: no findings" in mended.output
    assert run("mended.pt").exit_code == 0


def test_sarif_has_the_parts_that_readers_need(shop):
    run("shop.py:sick", "--sarif", "out.sarif")
    log = json.loads((shop / "out.sarif").read_text())
    assert log["version"] == "2.1.0"
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
        (["shop.py:broken"], "target expected shop.py:broken to work, got KeyError: 'weights'"),
        (["shop.py:needy"], "target expected shop.py:needy to work, got TypeError: needy() missing"),
        (["shop.py:number"], "target expected a factory of a torch.nn.Module, got int"),
        (["shop.py:plain"], "target expected a model with batch norm, got none in shop.py:plain"),
        (["shop.py:sick", "--data", "shop.py:empty"], "loader expected one batch or more, got none"),
        (["shop.py:sick", "--data", "shop.py:images"], "loader expected batches that the model takes, got "),
        (["nothing.pt"], "target expected a file, got none at nothing.pt"),
        (["text.pt"], "target expected a whole file of tensors, got text.pt"),
        (["code.pt"], "target expected tensors only, got code.pt with objects that would run code"),
        (["shop.py:sick", "--rules", "BN999"], "rules expected codes as BN001, got 'BN999'"),
        (["shop.py:sick", "--fail-on", "all"], "fail-on expected one of error, warn, info, got 'all'"),
        (["shop.py:sick", "--fix"], "out expected a new file for the mended copy, got None"),
        (["shop.py:sick", "--goal", "fly"], "goal expected one of train, predict, fold, export, got 'fly'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(shop, arguments, words, monkeypatch, capsys):
    (shop / "text.pt").write_text("no checkpoint")
    torch.save({"model": nn.Linear(2, 2)}, shop / "code.pt")
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
    assert "| [BN013](BN013.md) | eps-mismatch |" in CliRunner().invoke(app.app, ["explain"]).output
