import json
import math
import sys
import warnings

import pytest
import torch
from torch import nn

import batchnorm
from batchnorm import BatchNorm1d
from batchnorm.surgery import RecalibrationReport, population_statistics, recalibrate, watch
from batchnorm.surgery import recalibrate as recalibrate_function
from tests.surgery.networks import Images, drifting, mlp, shuffled, snapshot

METHODS = ["layerwise", "onepass"]


def changed(model, before):
    """Names of the tensors that are not what they were."""
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("layer", [nn.BatchNorm1d, BatchNorm1d, nn.SyncBatchNorm])
@pytest.mark.parametrize("method", METHODS)
def test_running_statistics_become_those_of_the_population_and_nothing_else_changes(layer, method):
    model, loader = mlp(layer), shuffled()
    model(loader[0] + 5)
    population = population_statistics(model, loader, method=method)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    before = snapshot(model)
    recalibrate(model, loader, method=method)
    statistics = {
        f"{n}.{key}" for n in ("1", "4") for key in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert changed(model, state) == statistics
    for name, expected in population.items():
        norm = model.get_submodule(name)
        assert torch.equal(norm.running_mean, expected.mean.float())
        assert torch.equal(norm.running_var, expected.var.float())
        assert norm.num_batches_tracked == 20
        assert norm.num_batches_tracked.dtype == torch.int64
    # modes, momentum, hooks, and the tensors' identity: an optimizer or an average holds on to them
    for name, (training, momentum, tensors, *hooks) in snapshot(model).items():
        was_training, was_momentum, old, *old_hooks = before[name]
        assert (training, momentum, hooks) == (was_training, was_momentum, old_hooks)
        assert [entry[:2] for entry in tensors] == [entry[:2] for entry in old]


def test_the_textbook_case_of_drifting_data():
    # Ten batches of standard deviation 3 whose means go from 0.5 to 9.5: 9 within and 8.25 between.
    generator = torch.Generator().manual_seed(0)
    loader = [torch.randn(1000, 1, generator=generator) * 3 + n + 0.5 for n in range(10)]
    model = nn.Sequential(nn.BatchNorm1d(1))
    recalibrate(model, loader)
    assert model[0].running_mean.item() == pytest.approx(5, abs=0.1)
    assert model[0].running_var.item() == pytest.approx(17.25, rel=0.03)
    whole = torch.cat(loader).double()
    assert model[0].running_var.item() == pytest.approx(whole.var().item(), rel=1e-6)
    torch.optim.swa_utils.update_bn(loader, model)
    assert model[0].running_var.item() < 10  # the mean of the variances


def test_a_cumulative_mean_goes_on_from_the_right_weight():
    model, loader = nn.Sequential(nn.BatchNorm1d(1, momentum=None)), shuffled(batches=3, width=1)
    recalibrate(model, loader)
    mean = model[0].running_mean.item()
    model.train()(torch.full((2, 1), mean + 4))
    assert model[0].num_batches_tracked == 4
    assert model[0].running_mean.item() == pytest.approx(mean + 1)


def test_a_lost_counter_is_no_obstacle():
    model = mlp()
    model[1].num_batches_tracked = None
    recalibrate(model, shuffled())
    assert model[1].num_batches_tracked is None
    assert model[4].num_batches_tracked == 20


def test_frozen_untracked_and_unnamed_layers_are_left_alone_and_listed():
    model = mlp(depth=3)
    model[1].eval()
    model[4].track_running_stats = False
    state = {name: value.clone() for name, value in model.state_dict().items()}
    report = recalibrate(model, shuffled())
    assert {name.split(".")[0] for name in changed(model, state)} == {"7"}
    assert report.untouched == {
        "1": "frozen: in prediction mode while the model trains",
        "4": "keeps no running statistics",
    }
    assert not model[1].training
    assert recalibrate(model, shuffled(), layers=["1"]).untouched["7"] == "not named"
    assert {name.split(".")[0] for name in changed(model, state)} == {"1", "7"}


def test_the_report_says_what_was_done_and_how_far_each_layer_moved():
    model = nn.Sequential(nn.BatchNorm1d(2, eps=0.0))
    model[0].running_mean.copy_(torch.tensor([0.0, 7.0]))
    model[0].running_var.copy_(torch.tensor([1.0, 4.0]))
    bad = torch.full((2, 2), math.nan)
    # Means 2 and 6, variances 4 and 4: shifts of 1 and ½, factors 2 and 1 of the standard deviations.
    report = recalibrate(model, [torch.tensor([[0.0, 4.0], [2.0, 6.0]]), bad, torch.tensor([[4.0, 8.0]])])
    (layer,) = report.layers
    assert (report.method, report.untouched) == ("layerwise", {})
    assert (layer.name, layer.count, layer.batches, layer.samples, layer.skipped) == ("0", 3, 2, 3, 1)
    assert (layer.mean_shift, layer.spread_factor) == (pytest.approx(1), pytest.approx(2))
    # Means of the batches 1 and 4: 2 · 1² + 1 · 2² = 6 of 8, and 3 values in 2 batches.
    assert layer.standard_error == pytest.approx(math.sqrt(6 / 8))
    model[0].running_var.copy_(torch.tensor([4.0, 16.0]))
    wide = recalibrate(model, [torch.tensor([[0.0, 4.0], [2.0, 6.0], [4.0, 8.0]])]).layers[0]
    assert wide.spread_factor == pytest.approx(2)
    again = recalibrate(model, [torch.tensor([[0.0, 4.0], [2.0, 6.0], [4.0, 8.0]])]).layers[0]
    assert (again.mean_shift, again.spread_factor) == (0, pytest.approx(1))


@pytest.mark.parametrize(("mean", "var", "fields"), [
    (math.nan, 1.0, {"mean_shift"}), (math.inf, 1.0, {"mean_shift"}),
    (0.0, math.nan, {"spread_factor"}), (0.0, -1.0, {"spread_factor"}), (0.0, math.inf, {"spread_factor"}),
])  # fmt: skip
def test_broken_statistics_are_repaired_and_the_distance_is_infinite(mean, var, fields):
    model = nn.Sequential(nn.BatchNorm1d(3))
    model[0].running_mean[1], model[0].running_var[1] = mean, var
    report = recalibrate(model, shuffled())
    assert all(math.isinf(getattr(report.layers[0], field)) for field in fields)
    assert torch.isfinite(model[0].running_mean).all()
    assert torch.isfinite(model[0].running_var).all()
    assert all(report.to_dict()["layers"][0][field] is None for field in fields)


def test_the_report_goes_through_json():
    report = recalibrate(mlp(), shuffled(batches=1), layers=["1"])
    loaded = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert loaded["method"] == "layerwise"
    assert loaded["untouched"] == {"4": "not named"}
    assert loaded["layers"][0] | {"mean_shift": 0, "spread_factor": 0} == {
        "name": "1", "count": 64, "batches": 1, "samples": 64, "skipped": 0,
        "standard_error": None, "unsettled": 0, "mean_shift": 0, "spread_factor": 0,
    }  # fmt: skip
    assert isinstance(report, RecalibrationReport)


# Nothing changes when something goes wrong


class Interrupted:
    """A loader that fails in the middle of some pass."""

    def __init__(self, batches, error, good_passes):
        self.batches, self.error, self.good_passes = batches, error, good_passes

    def __iter__(self):
        yield from self.batches[:3]
        if self.good_passes == 0:
            raise self.error
        self.good_passes -= 1
        yield from self.batches[3:]


def used(momentum=0.1):
    """A network in the middle of its training: frozen parts, hooks, a counter that counts."""
    torch.manual_seed(3)
    model = nn.Sequential(Images(), nn.Flatten(), nn.BatchNorm1d(64, momentum=momentum), nn.Dropout(0.3))
    for _ in range(3):
        model(torch.randn(8, 2, 8, 8))
    model[0].features[1].eval()
    model[0].features[0].requires_grad_(False)
    model[0].norm.register_forward_pre_hook(lambda module, args: None)
    model[0].norm.register_forward_hook(lambda module, args, output: None)
    return model


IMAGES = [torch.randn(40, 2, 8, 8, generator=torch.Generator().manual_seed(4)) for _ in range(6)]


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("error", [RuntimeError("disk"), KeyboardInterrupt(), SystemExit()])
@pytest.mark.parametrize(("method", "good_passes"), [("layerwise", 0), ("layerwise", 1), ("onepass", 0)])
def test_an_error_in_the_loader_leaves_the_model_bit_equal(method, good_passes, error, momentum):
    model = used(momentum)
    before, random = snapshot(model), torch.get_rng_state()
    with pytest.raises(type(error)) as caught:
        recalibrate(model, Interrupted(IMAGES, error, good_passes), method=method)
    assert caught.value is error
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("error", [RuntimeError("shape"), KeyboardInterrupt()])
@pytest.mark.parametrize(("method", "forwards"), [("layerwise", 0), ("layerwise", 9), ("onepass", 4)])
def test_an_error_in_the_forward_leaves_the_model_bit_equal(method, forwards, error):
    class Failing(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.left = used(), forwards

        def forward(self, x):
            if self.left == 0:
                raise error
            self.left -= 1
            return self.net(x)

    model = Failing()
    before = snapshot(model)
    with pytest.raises(type(error)):
        recalibrate(model, IMAGES, method=method)
    assert model.left == 0
    assert snapshot(model) == before


def test_an_interrupt_while_writing_leaves_the_model_bit_equal(monkeypatch):
    model, written = used(), []

    def put(layer, mean, var):
        watch.put_statistics(layer, mean, var)
        written.append(layer)
        if len(written) == 2:
            raise KeyboardInterrupt

    # by way of sys.modules: the package has a function of the module's name
    monkeypatch.setattr(sys.modules["batchnorm.surgery.recalibrate"], "put_statistics", put)
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        recalibrate(model, IMAGES)
    assert len(written) == 2
    assert snapshot(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_a_statistic_beyond_its_buffers_dtype_is_refused_by_name(method):
    model = nn.Sequential(nn.BatchNorm1d(3).half())
    before = snapshot(model)
    words = r"recalibrate: running_var expected a dtype that holds \S+, got torch.float16"
    with pytest.raises(ValueError, match=words):
        recalibrate(model, [batch.half() * 200 for batch in shuffled()], method=method)
    assert snapshot(model) == before


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (nn.Linear(3, 3), "got none"),
        (nn.BatchNorm1d(3, track_running_stats=False), "got itself keeps no running statistics"),
        (nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False)), "got 0 keeps no running statistics"),
    ],
)
def test_a_model_with_nothing_to_change_is_refused(model, words):
    with pytest.raises(
        ValueError, match=f"^recalibrate: model expected a batch-norm layer to change, {words}$"
    ):
        recalibrate(model, shuffled())


@pytest.mark.parametrize(("loader", "words"), [
    ([], "loader expected one batch or more, got none"),
    (iter(shuffled()), "got a one-time list_iterator"),
    ([["x"]], "got list; forward_fn="),
])  # fmt: skip
def test_a_loader_that_does_not_serve_is_refused_in_one_line(loader, words):
    model = mlp()
    before = snapshot(model)
    with pytest.raises(ValueError, match="^recalibrate: loader expected ") as caught:  # noqa: RUF043
        recalibrate(model, loader)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(model) == before


def test_predictions_after_a_lagging_training_are_mended():
    """What it is for: weights that outran the running statistics."""
    model, loader = mlp(momentum=0.001), drifting(batches=40)
    for batch in loader:
        model(batch)
    with torch.no_grad():
        trained = model(torch.cat(loader))
        lagging = (model.eval()(torch.cat(loader)) - trained).abs().mean()
        recalibrate(model, loader)
        mended = (model(torch.cat(loader)) - trained).abs().mean()
    assert mended < 0.01 * lagging


def test_a_scripted_part_leaves_nothing_changed_if_nothing_can_be():
    with warnings.catch_warnings(action="ignore"):  # of torch.jit as a whole; it still works
        model = torch.jit.script(nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(
        ValueError, match=r"recalibrate: model expected a batch-norm layer .*, got 0 scripted$"
    ):
        recalibrate(model, shuffled())
    assert model.training


def test_it_is_offered_at_the_top():
    assert batchnorm.recalibrate is recalibrate_function


@pytest.mark.parametrize(
    ("model", "loader", "options", "error", "words"),
    [
        (None, IMAGES, {}, TypeError, "model expected a torch.nn.Module, got NoneType"),
        (nn.BatchNorm1d(3), None, {}, ValueError, "loader expected an iterable of batches, got NoneType"),
        (nn.BatchNorm1d(3), 3, {}, ValueError, "loader expected an iterable of batches, got int"),
        (
            nn.BatchNorm1d(3, device="meta"),
            IMAGES,
            {},
            ValueError,
            "model expected tensors with values, got weight on device meta",
        ),
        (
            nn.BatchNorm1d(3),
            IMAGES,
            {"tolerance": "x"},
            ValueError,
            "tolerance expected a number > 0, got 'x'",
        ),
        (nn.BatchNorm1d(3), IMAGES, {"layers": 1}, ValueError, "layers expected names, got 1"),
    ],
)
def test_arguments_of_another_kind_are_refused_in_one_line(model, loader, options, error, words):
    with pytest.raises(error, match=f"^recalibrate: {words}$"):
        recalibrate(model, loader, **options)
