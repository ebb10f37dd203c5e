"""Exported files give what the model gave, run by onnxruntime and by torch.export, for any batch."""

import json
import logging
import subprocess
import sys
import threading
import warnings
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

import batchnorm as bn
from batchnorm.models import build
from batchnorm.surgery import export
from tests.surgery.folds import settled
from tests.surgery.networks import snapshot

onnx = pytest.importorskip("onnx", reason="pip install 'batchnorm[onnx]'")
onnxruntime = pytest.importorskip("onnxruntime", reason="pip install 'batchnorm[onnx]'")
pytest.importorskip("onnxscript", reason="pip install 'batchnorm[onnx]'")
from google.protobuf.message import EncodeError  # noqa: E402  # comes with onnx

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")


def network():
    norm = bn.BatchNorm2d(4, activation="relu")
    return settled(
        nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.Sigmoid(), nn.BatchNorm2d(4)), dtype=torch.float32
    )


def images(batch=2):
    return torch.randn(batch, 1, 8, 8)


def nodes(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def test_onnx_is_folded_and_takes_any_batch(tmp_path):
    model, path = network(), tmp_path / "model.onnx"
    report = export(model, images(1), path, inputs=[images(5), images(7)])
    assert 0 < report.difference < 1e-5
    assert (report.inputs, report.size) == (4, path.stat().st_size)
    assert "BatchNormalization" not in nodes(path)
    x = images(6)
    (output,) = onnxruntime.InferenceSession(path).run(["output"], {"input": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(output), model(x))
    (metadata,) = onnx.load(path).metadata_props
    assert metadata.key == "batchnorm.fold"
    assert json.loads(metadata.value) == json.loads(json.dumps(report.fold.to_dict()))
    assert report.fold.folded == {"1": ("0",)}
    assert onnx.load(path).opset_import[0].version == report.opset


def test_onnx_with_batch_norm_kept_in_inference_form(tmp_path):
    model, path = network(), tmp_path / "model.onnx"
    report = export(model, images(), path, keep_bn=True)
    assert report.fold is None
    assert nodes(path).count("BatchNormalization") == 2
    for node in onnx.load(path).graph.node:
        training = [a.i for a in node.attribute if a.name == "training_mode"]
        assert training in ([], [0])
    assert model[1].backend == "auto"


@pytest.mark.parametrize("keep_bn", [False, True])
def test_programs_run_again(tmp_path, keep_bn):
    model, path, x = network(), tmp_path / "model.pt2", images(5)
    report = export(model, {"input": images()}, path, keep_bn=keep_bn)
    extra = {"batchnorm.fold": ""}
    module = torch.export.load(path, extra_files=extra).module()
    torch.testing.assert_close(module(input=x), model(x))
    assert json.loads(extra["batchnorm.fold"]) == json.loads(json.dumps(report.to_dict()["fold"]))
    assert report.opset is None


def test_several_inputs_and_outputs(tmp_path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.linear, self.norm = nn.Embedding(5, 3), nn.Linear(3, 4), nn.BatchNorm1d(4)

        def forward(self, index, x):
            y = self.norm(self.linear(self.embedding(index) + x))
            return {"y": y, "x": [x.sum(1)]}

    model, path = settled(Two(), dtype=torch.float32), tmp_path / "two.onnx"
    report = export(model, (torch.tensor([4, 1]), torch.randn(2, 3)), path)
    assert report.fold.folded == {"norm": ("linear",)}
    session = onnxruntime.InferenceSession(path)
    assert [output.name for output in session.get_outputs()] == ["output_0", "output_1"]


class Difference(nn.Module):
    """Of two images, given in any way."""

    def __init__(self):
        super().__init__()
        self.body = network()

    def forward(self, a, b=None):
        if isinstance(a, dict):
            a, b = a["a"], a["b"]
        elif isinstance(a, list | tuple):
            a, b = a
        return self.body(a) - b.mean()


Pair = namedtuple("Pair", "a b")


@pytest.mark.parametrize(
    ("given", "suffix"),
    [
        (lambda a, b: [a, b], ".onnx"),
        (lambda a, b: [a, b], ".pt2"),
        (lambda a, b: {"a": a, "b": b}, ".onnx"),
        (lambda a, b: {"a": a, "b": b}, ".pt2"),
        (Pair, ".onnx"),
    ],
)
def test_tensors_within_an_argument_have_any_batch_too(tmp_path, suffix, given):
    example, more = (given(images(2), images(2)),), (given(images(5), images(5)),)
    report = export(Difference().eval(), example, tmp_path / f"model{suffix}", inputs=[more])
    assert report.inputs == 3


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_arguments_by_name_in_any_order(tmp_path, suffix):
    a, b = images(), images()
    path = tmp_path / f"model{suffix}"
    assert export(Difference().eval(), {"a": a, "b": b}, path, inputs=[{"b": b, "a": a}]).inputs == 3


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("wrap", [AveragedModel, lambda model: torch.compile(model, backend="eager")])
def test_a_model_that_hands_all_its_arguments_on(tmp_path, suffix, wrap):
    assert export(wrap(network()).eval(), images(), tmp_path / f"model{suffix}").inputs == 2


@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_argument_that_is_no_tensor_stays_what_it_is_in_the_example(tmp_path, suffix):
    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network()

        def forward(self, x, twice=False):
            return self.body(x) * (2 if twice else 1)

    model, path = Switched().eval(), tmp_path / f"model{suffix}"
    assert export(model, {"x": images(2), "twice": True}, path).inputs == 2


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
def test_our_networks(tmp_path, name):
    model = settled(build(name, norm="batch", seed=0), dtype=torch.float32)
    report = export(
        model, torch.rand(1, 1, 28, 28), tmp_path / "model.onnx", inputs=[torch.rand(9, 1, 28, 28)]
    )
    assert report.difference <= 1e-4
    assert not report.fold.alone


def test_a_batch_that_cannot_vary(tmp_path):
    class Fixed(nn.Module):
        def forward(self, x):
            return x.view(2, -1)

    path = tmp_path / "fixed.pt2"
    with pytest.raises(ValueError, match=r"export: model expected to be .*; try dynamic_batch=False"):
        export(Fixed().eval(), images(2), path)
    assert export(Fixed().eval(), images(2), path, dynamic_batch=False).inputs == 1


def test_nothing_is_written_if_the_file_is_wrong(tmp_path):
    path = tmp_path / "model.pt2"
    path.write_text("as it was")
    with pytest.raises(ValueError, match=r"(fold|export): difference expected at most 0 "):
        export(network(), images(), path, tolerance=0)
    assert path.read_text() == "as it was"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_onnxruntime_cannot_run_is_one_line_or_written_unchecked(tmp_path, dtype):
    model, path = network().to(dtype), tmp_path / "model.onnx"
    with pytest.raises(
        ValueError, match=f"export: model on {dtype} expected to run in onnxruntime, got "
    ) as caught:
        export(model, images().to(dtype), path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    assert export(model, images().to(dtype), path, verify=False).difference is None
    assert path.exists()


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_model_that_writes_into_its_input(tmp_path, suffix):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x):
            return self.norm(self.conv(x.mul_(2).sub_(1)))

    x = images()
    before = x.clone()
    model = settled(Scaled(), dtype=torch.float32)
    assert export(model, x, tmp_path / f"model.{suffix}").difference < 1e-5
    assert torch.equal(x, before)


@pytest.mark.parametrize("keep_bn", [True, False])
@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_a_model_that_keeps_tensors_of_a_graph(tmp_path, suffix, keep_bn):
    model, x = network(), images()
    made = model[0](x)
    model.seen = made
    model[0].register_buffer("seen", made)
    before = snapshot(model)
    report = export(model, x, tmp_path / f"model.{suffix}", keep_bn=keep_bn)
    assert report.difference < 1e-5
    assert snapshot(model) == before
    assert model.seen is model[0].seen is made
    assert made.requires_grad


def test_a_directory_is_no_place_for_a_file(tmp_path):
    (tmp_path / "model.pt2").mkdir()
    with pytest.raises(ValueError, match=r"export: path expected a file, got the directory .*model.pt2$"):
        export(network(), images(), tmp_path / "model.pt2")


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match=r"export: path expected to end in .onnx or .pt2, got model.bin"):
        export(network(), images(), "model.bin")
    with pytest.raises(ValueError, match=r"export: model expected in prediction mode, got training mode"):
        export(network().train(), images(), tmp_path / "model.pt2")
    for keep_bn in (False, True):
        model = network()
        model[1].train()
        with pytest.raises(
            ValueError, match=r"export: model expected in prediction mode, got 1 in training m"
        ):
            export(model, images(), tmp_path / "model.onnx", keep_bn=keep_bn)
        for tolerance in (-1, float("nan")):
            with pytest.raises(ValueError, match=r"^export: tolerance expected a number >= 0, got "):
                export(network(), images(), tmp_path / "model.pt2", keep_bn=keep_bn, tolerance=tolerance)
    assert list(tmp_path.iterdir()) == []
    model = network()
    model.lock = threading.Lock()
    with pytest.raises(ValueError, match=r"^export: model expected one that can be copied, got TypeError: "):
        export(model, images(), tmp_path / "model.pt2", keep_bn=True)
    with pytest.raises(ValueError, match=r"^fold: model expected one that can be copied, got TypeError: "):
        export(model, images(), tmp_path / "model.pt2")


@pytest.mark.parametrize("keep_bn", [True, False])
@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("running_mean", float("nan"), "statistics of 1 expected finite numbers"),
        ("running_var", -1.0, "running_var of 1 expected numbers >= 0, got -1"),
    ],
)
def test_broken_statistics_are_not_written(tmp_path, keep_bn, name, value, words):
    model = network()
    getattr(model[1], name)[2] = value
    with pytest.raises(ValueError, match=words):
        export(model, images(), tmp_path / "model.pt2", keep_bn=keep_bn)
    assert list(tmp_path.iterdir()) == []


def test_what_torch_cannot_store_is_one_line(tmp_path):
    with pytest.raises(
        ValueError, match=r"^export: model expected to be storable by torch.export, got NotImpl"
    ):
        export(Difference().eval(), (Pair(images(), images()),), tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_what_is_too_large_for_onnx_is_one_line(tmp_path, monkeypatch):
    class TooLarge:
        def SerializeToString(self):  # noqa: N802
            raise EncodeError("Failed to serialize proto")  # as protobuf says it of 2 GB

    monkeypatch.setattr(torch.onnx.ONNXProgram, "model_proto", TooLarge())
    with pytest.raises(ValueError, match=r"^export: model expected to fit into the 2 GB of .onnx, got "):
        export(network(), images(), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


class Named(nn.Module):
    def forward(self, x):
        return x, "its name"


@pytest.mark.parametrize(
    ("model", "inputs", "words"),
    [
        (network(), [torch.ones(2, 1, 9, 9)], r"AssertionError: Guard failed: input.size\(\)\[2\] == 8"),
        (Named().eval(), [], "RuntimeError: "),
    ],
)
def test_a_program_that_does_not_run_is_one_line(tmp_path, model, inputs, words):
    with pytest.raises(
        ValueError, match=f"^export: model expected to run from its file, got {words}"
    ) as caught:
        export(model, images(), tmp_path / "model.pt2", inputs=inputs)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


class Meanwhile(nn.Module):
    """Does something else while it is traced by torch.export."""

    def __init__(self, act):
        super().__init__()
        self.body, self.act = network(), act

    def __deepcopy__(self, memo):
        return self

    def forward(self, x):
        if torch.compiler.is_exporting():
            self.act()
        return self.body(x)


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_two_threads_that_export_wait_for_each_other(tmp_path, suffix):
    first_is_done, second_is_inside = threading.Event(), threading.Event()

    def in_second():
        second_is_inside.set()
        first_is_done.wait(0.5)

    def in_first():
        if second.ident is None:
            second.start()
            second_is_inside.wait(0.2)  # in vain: it waits for its turn

    def run(name, act):
        export(Meanwhile(act).eval(), images(), tmp_path / f"{name}.{suffix}", keep_bn=True)

    second = threading.Thread(target=run, args=("second", in_second))
    logger = logging.getLogger("torch.onnx")
    before = nn.Module.__call__, nn.Module.__getattr__, list(warnings.filters), logger.level
    run("first", in_first)
    first_is_done.set()
    second.join()
    assert (nn.Module.__call__, nn.Module.__getattr__, list(warnings.filters), logger.level) == before
    assert {path.name for path in tmp_path.iterdir()} == {f"first.{suffix}", f"second.{suffix}"}


@pytest.mark.parametrize("example", [torch.ones(0, 1, 8, 8), {}, 3])
def test_an_example_without_a_sample_is_refused(tmp_path, example):
    with pytest.raises(ValueError, match=r"export: example expected a tensor with one sample or more"):
        export(network(), example, tmp_path / "model.pt2")


def test_a_missing_extra_is_named():
    code = (
        "import sys, torch; sys.modules['onnxruntime'] = None\n"
        "from batchnorm.surgery import export\n"
        "export(torch.nn.ReLU().eval(), torch.ones(2), 'model.onnx')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "expected onnxruntime to be installed, got none; pip install 'batchnorm[onnx]'" in result.stderr


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
@pytest.mark.parametrize("given", ["channels", "mask", "domain"])
def test_kept_layers_that_torchs_kernel_does_not_do(tmp_path, suffix, given):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            stats = bn.stats.Domains(2) if given == "domain" else None
            self.norm = bn.BatchNorm1d(6, channel_dim=-1 if given == "channels" else 1, stats=stats)

        def forward(self, x):
            mask = (x[:, :1] > 0) if given == "mask" else None
            return self.norm(x, mask=mask, domain=1 if given == "domain" else None)

    path, x = tmp_path / f"model.{suffix}", torch.randn(2, 6, 6)
    assert export(settled(Net(), dtype=torch.float32), x, path, keep_bn=True).difference < 1e-5


@pytest.mark.parametrize("backend", ["eager", "torch"])
def test_kept_layers_are_torchs_operator_whatever_their_backend(tmp_path, backend):
    path = tmp_path / "model.onnx"
    export(nn.Sequential(bn.BatchNorm2d(1, backend=backend)).eval(), images(), path, keep_bn=True)
    assert nodes(path) == ["BatchNormalization"]


class Eigenvalues(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvalsh(x)


def test_what_cannot_be_converted_is_one_line_without_colours(tmp_path):
    with pytest.raises(
        ValueError, match=r"^export: model expected to be convertible to ONNX, got "
    ) as caught:
        export(Eigenvalues().eval(), torch.randn(2, 3, 3), tmp_path / "model.onnx")
    assert str(caught.value).isprintable()
    assert "No ONNX function found for" in str(caught.value)
    assert "dynamic_batch" not in str(caught.value)  # would not help
    assert list(tmp_path.iterdir()) == []


class Noisy(nn.Module):
    def forward(self, x):
        return x + torch.randn(x.shape[-1])


def test_a_random_prediction_is_told_from_a_wrong_file(tmp_path):
    with pytest.raises(ValueError, match=r"got .*; the model itself differs from run to run$"):
        export(Noisy().eval(), images(), tmp_path / "noisy.onnx")
    assert export(Noisy().eval(), images(), tmp_path / "noisy.pt2").difference == 0  # the same random numbers
    with pytest.raises(ValueError, match=r"of the largest output, got [^;]*$"):
        export(network(), images(), tmp_path / "model.onnx", tolerance=1e-12)
