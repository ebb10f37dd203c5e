"""Factories by name, and what is said when there is none."""

import sys

import pytest
import torch
from torch import nn

from batchnorm.targets import load_factory, load_model, pack_state

FILE = """
from torch import nn
def model(): return nn.Linear(2, 3)
def number(): return 3
def broken(): raise KeyError("two\\nlines")
def leaves(): raise SystemExit(0)
def twice(x): return 2 * x
value = 5
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "factories_here.py").write_text(FILE)
    (tmp_path / "script.py").write_text("import sys\nsys.exit(2)")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_and_a_module_of_the_current_directory(place):
    assert isinstance(load_model("fold", "factories_here.py:model"), nn.Linear)
    assert isinstance(load_model("fold", "factories_here:model"), nn.Linear)
    assert isinstance(load_model("fold", "torch.nn:ReLU"), nn.ReLU)
    assert load_factory("fold", "data", "factories_here.py:twice")(4) == 8


def test_a_file_finds_what_lies_beside_it(place, monkeypatch):
    monkeypatch.setattr("sys.path", [entry for entry in sys.path if entry not in ("", str(place))])
    (place / "nets").mkdir()
    (place / "nets" / "layers_of_theirs.py").write_text("from torch.nn import ReLU as Layer")
    (place / "nets" / "net.py").write_text("from layers_of_theirs import Layer")
    assert isinstance(load_model("fold", "nets/net.py:Layer"), nn.ReLU)


def test_weights_are_put_in(place):
    state = nn.Linear(2, 3).state_dict() | {"bias": torch.ones(3)}
    (place / "w.safetensors").write_bytes(pack_state(state, {}))
    assert load_model("fold", "factories_here:model", "w.safetensors").bias.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("factories_here.py", "target expected package.module:factory or file.py:factory, got 'fact"),
        ("factories_here:a-b", "target expected package.module:factory"),
        ("absent.py:model", "target expected a module that can be imported, got absent.py: FileNot"),
        ("absent_module:model", "target expected a module that can be imported, got absent_module: "),
        ("factories_here:absent", "target expected a function 'absent' in factories_here, got none"),
        ("factories_here:value", "target expected a function 'value' in factories_here, got none"),
        ("factories_here:number", "target expected a factory of a torch.nn.Module, got int"),
        ("factories_here:broken", "target expected factories_here:broken to work, got KeyError: 'two"),
        ("factories_here:leaves", "target expected factories_here:leaves to work, got SystemExit: 0"),
        ("script.py:model", "target expected a module that can be imported, got script.py: SystemExit: 2"),
        ("model.safetensors", "target expected a factory, .* as --weights, got model.safetensors"),
        ("model.onnx", "target expected a factory, .*, got model.onnx, a program without modules"),
    ],
)
def test_what_is_no_factory_is_said_in_one_line(place, text, words):
    with pytest.raises(ValueError, match=f"^fold: {words}") as caught:
        load_model("fold", text)
    assert "\n" not in str(caught.value)
