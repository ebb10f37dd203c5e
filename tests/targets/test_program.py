"""Exported programs are read as data: the tensors that batch norm can have; every wrong file is one line."""

import re
import zipfile

import pytest
import torch
from torch import nn

from batchnorm.targets import load_target


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.register_buffer("mask", torch.ones(3, dtype=torch.bool))
        self.register_buffer("empty", torch.ones(0))

    def forward(self, x):
        return self.norm(self.conv(x)) * self.mask[:, None, None] + self.empty.sum()


def saved():
    model = Network().eval()
    torch.export.save(torch.export.export(model, (torch.randn(2, 2, 4, 4),)), "model.pt2")
    return model


def test_the_tensors_that_batch_norm_can_have_are_read():
    state = saved().state_dict()
    program = load_target("doctor", "model.pt2")
    assert program.state.keys() == state.keys() - {"mask", "empty"}
    assert all(torch.equal(value, state[name]) for name, value in program.state.items())
    assert any("batch_norm" in node["target"] for node in program.nodes)


def test_an_onnx_file_without_a_graph_is_refused():
    onnx = pytest.importorskip("onnx")
    with open("model.onnx", "wb") as file:
        file.write(onnx.ModelProto().SerializeToString() or b"")
    message = "doctor: target expected a whole .onnx file, got model.onnx: ValueError"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        load_target("doctor", "model.onnx")


@pytest.mark.parametrize("name", ["model.pt2", "model.onnx"])
def test_a_damaged_or_missing_file_is_one_line(name):
    if name.endswith(".onnx"):
        pytest.importorskip("onnx")
    with pytest.raises(ValueError, match=rf"^doctor: target expected a file, got none at {name}$"):
        load_target("doctor", name)
    with open(name, "wb") as file:
        file.write(b"\x00 no such thing")
    with pytest.raises(ValueError, match=rf"^doctor: target expected a whole \.\w+ file, got {name}: \w+$"):
        load_target("doctor", name)


def test_an_archive_that_is_no_program_is_one_line():
    with zipfile.ZipFile("model.pt2", "w") as archive:
        archive.writestr("other.json", "{}")
    with pytest.raises(
        ValueError, match=r"^doctor: target expected a whole \.pt2 file, got model\.pt2: KeyError$"
    ):
        load_target("doctor", "model.pt2")
