"""Files of tensors: none is executed, and every wrong one has its message."""

import contextlib
import json
import os
import pickle
import random

import pytest
import torch
from torch import nn

from batchnorm.targets import load_state, pack_state, put_state

MADE = "was_run"


class Malicious:
    def __reduce__(self):
        return open, (MADE, "w")


class Shell:
    """In a module that torch's reader blocks outright."""

    def __reduce__(self):
        return os.system, (f"echo > {MADE}",)


def model():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model", "ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "model."])
def test_state_dicts_as_training_scripts_keep_them(key, prefix):
    original = model()
    state = {prefix + name: value for name, value in original.state_dict().items()}
    torch.save(state if key is None else {"epoch": 3, key: state}, "m.pt")
    other = model()
    put_state("fold", other, load_state("fold", "m.pt"), "m.pt")
    expected = original.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in other.state_dict().items())


def test_our_training_checkpoints_with_their_optimizer():
    original, other = model(), model()
    tensors = {f"model.{name}": value for name, value in original.state_dict().items()}
    with open("c.safetensors", "wb") as file:
        file.write(pack_state({**tensors, "optimizer.0.momentum": torch.ones(2)}, {"progress": "{}"}))
    put_state("fold", other, load_state("fold", "c.safetensors"), "c")
    assert torch.equal(other[0].weight, original[0].weight)


def test_counters_that_old_files_lack_stay():
    original, other = model(), model()
    state = {name: value for name, value in original.state_dict().items() if "num_batches" not in name}
    other[1].num_batches_tracked.fill_(7)
    put_state("fold", other, state, "s")
    assert other[1].num_batches_tracked == 7
    assert torch.equal(other[0].bias, original[0].bias)


def test_shared_tensors_pack(here):
    tied = nn.Linear(2, 2)
    content = pack_state({"a": tied.weight, "b": tied.weight, "c": tied.weight.t()}, {"key": "value"})
    (here / "t.safetensors").write_bytes(content)
    assert torch.equal(load_state("fold", "t.safetensors")["c"], tied.weight.t())


def refused(words, path="m.pt"):
    with pytest.raises(ValueError, match=f"^fold: weights expected {words}") as caught:
        load_state("fold", path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", [Malicious, Shell])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_file_is_refused_and_not_run(here, kind, zipped):
    state = {"weight": torch.ones(2), "extra": kind()}
    torch.save(state, "m.pt", _use_new_zipfile_serialization=zipped)
    refused(r"tensors only, got m.pt with objects that would run code .*; nothing of it was run")
    assert not (here / MADE).exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_refused_and_not_run(here, protocol):
    (here / "m.pt").write_bytes(pickle.dumps({"weight": Malicious()}, protocol))
    refused("(tensors only, got m.pt with objects that would run code|a whole file of tensors, got m.pt)")
    assert not (here / MADE).exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_whatever_is_damaged_in_a_file_is_one_line(here, zipped):
    torch.save(model().state_dict(), here / "m.pt", _use_new_zipfile_serialization=zipped)
    content = (here / "m.pt").read_bytes()
    draw = random.Random(0)
    refusals = 0
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(4):
            damaged[draw.randrange(900)] = draw.randrange(256)
        (here / "m.pt").write_bytes(damaged)
        with contextlib.suppress(ValueError):
            load_state("fold", "m.pt")
            continue
        refusals += 1
    assert refusals > 50


def test_shards_are_read_by_their_list(here):
    state = model().state_dict()
    shards = {"a.safetensors": dict(list(state.items())[:3]), "b.safetensors": dict(list(state.items())[3:])}
    for name, part in shards.items():
        (here / name).write_bytes(pack_state(part, {}))
    names = {key: name for name, part in shards.items() for key in part}
    index = here / "m.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    found = load_state("fold", index)
    assert all(torch.equal(value, found[name]) for name, value in state.items())
    for wrong in ("{}", "[]", "no JSON", '{"weight_map": 3}'):
        index.write_text(wrong)
        refused("a list of shards with weight_map", index)
    for elsewhere in ("../a.safetensors", "m.safetensors.index.json", 3):
        index.write_text(json.dumps({"weight_map": {"a": elsewhere}}))
        refused("shards beside", index)
    index.write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    refused("a file, got none at", index)


@pytest.mark.parametrize("suffix", ["pt", "pth", "safetensors"])
def test_a_truncated_or_empty_file_is_refused(here, suffix):
    path = here / f"m.{suffix}"
    content = pack_state(model().state_dict(), {})
    if suffix != "safetensors":
        torch.save(model().state_dict(), path)
        content = path.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        refused("a whole (safetensors )?file", path)


def test_files_that_are_something_else(here):
    torch.save([1, 2], "m.pt")
    refused("a state dict, got list in m.pt")
    torch.save({"epoch": 1}, "m.pt")
    refused("a state dict, got dict in m.pt")
    refused("a file, got none at absent.pt", "absent.pt")
    refused("a file .safetensors, .pt, .pth, .bin, .ckpt, .index.json, got m.txt", "m.txt")


def test_tensors_of_another_model_are_refused_by_name_and_by_shape():
    target, before = model(), model().state_dict()
    target.load_state_dict(before)
    with pytest.raises(ValueError, match=r"got f without 0.bias, 0.weight, 1.bias and 3 more and with a$"):
        put_state("fold", target, {"a": torch.ones(1)}, "f")
    wrong = {**target.state_dict(), "0.weight": torch.ones(3, 4)}
    with pytest.raises(ValueError, match=r"weights expected shape \(3, 2\) of 0.weight, got \(3, 4\) in f"):
        put_state("fold", target, wrong, "f")
    assert all(torch.equal(value, before[name]) for name, value in target.state_dict().items())
