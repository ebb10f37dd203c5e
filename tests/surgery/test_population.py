import copy
import warnings

import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d
from batchnorm.surgery import layerwise, population, population_statistics
from batchnorm.surgery.population import Feed, measure
from tests.surgery.networks import (
    Images,
    drifting,
    inputs_in_prediction,
    mlp,
    pooled,
    shuffled,
    snapshot,
)

METHODS = ["layerwise", "onepass"]
LAYERS = [nn.BatchNorm1d, BatchNorm1d, nn.SyncBatchNorm]


def assert_statistics(found, values, rtol=1e-6):
    """Mean to ``rtol`` standard deviations, variance to ``rtol`` of itself."""
    mean, var = pooled(values)
    assert ((found.mean - mean).abs() <= rtol * var.sqrt()).all()
    torch.testing.assert_close(found.var, var, rtol=rtol, atol=0)
    assert found.count == values.shape[1]


def assert_consistent(model, loader, forward_fn=None, rtol=1e-6, **options):
    """Put in place, the statistics must be those of what each layer is then given."""
    found = population_statistics(model, loader, forward_fn=forward_fn, **options)
    model = copy.deepcopy(model).eval()
    for name, statistics in found.items():
        model.get_submodule(name).running_mean.copy_(statistics.mean)
        model.get_submodule(name).running_var.copy_(statistics.var)
    given = inputs_in_prediction(model, loader, forward_fn)
    assert found.keys() == given.keys()
    for name in found:
        assert_statistics(found[name], given[name], rtol)


def one_pass_by_hand(model, loader):
    """What the layers of an `mlp` are given when each batch is normalized with its own statistics."""
    given = {}
    for batch in loader:
        for name, module in model.named_children():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                given.setdefault(name, []).append(batch.double())
                std, mean = torch.std_mean(batch, 0, correction=0)
                batch = (batch - mean) / (std**2 + module.eps).sqrt() * module.weight + module.bias
            else:
                batch = module(batch)
    return {name: torch.cat(parts).T for name, parts in given.items()}


@pytest.mark.parametrize("layer", LAYERS)
def test_layer_by_layer_gives_the_statistics_of_all_that_each_layer_is_given(layer):
    assert_consistent(mlp(layer), drifting(), method="layerwise")


@pytest.mark.parametrize("layer", LAYERS)
@torch.no_grad()
def test_one_pass_gives_the_statistics_of_batches_normalized_as_in_training(layer):
    model = mlp(layer)
    found = population_statistics(model, drifting(), method="onepass", allow_small_batches=True)
    given = one_pass_by_hand(model, drifting())
    assert found.keys() == given.keys() == {"1", "4"}
    for name in found:
        assert_statistics(found[name], given[name])


@pytest.mark.parametrize("method", METHODS)
def test_the_first_layer_has_the_total_variance_where_torchs_helper_has_not(method):
    model, loader = nn.Sequential(nn.BatchNorm1d(3)), drifting()
    found = population_statistics(model, loader, method=method, allow_small_batches=True)["0"]
    assert_statistics(found, torch.cat(loader).double().T, rtol=1e-12)
    torch.optim.swa_utils.update_bn(loader, model)  # averages variances: the data tell them apart
    assert (model[0].running_var < 0.7 * found.var).all()


def test_images_with_dropout_in_half_and_in_channels_last():
    loader = [torch.randn(n, 2, 8, 8) + n for n in (6, 5, 1)]
    assert_consistent(Images(), loader)
    assert_consistent(Images(), [batch.contiguous(memory_format=torch.channels_last) for batch in loader])
    half = Images().bfloat16()
    found = population_statistics(half, [batch.bfloat16() for batch in loader])
    assert all(s.mean.dtype == s.var.dtype == torch.float64 for s in found.values())


def test_both_methods_agree_on_one_large_batch():
    loader = [torch.cat(drifting())]
    one = population_statistics(mlp(), loader, method="onepass")
    many = population_statistics(mlp(), loader, method="layerwise")
    for name in one:
        torch.testing.assert_close(one[name].mean, many[name].mean, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(one[name].var, many[name].var, rtol=1e-2, atol=0)


class Reused(nn.Module):
    """Calls its first layer twice, its second once in between, its third twice in a row."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (BatchNorm1d(3) for _ in range(3))
        self.mix, self.end = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x):
        x = self.mix(torch.tanh(self.a(x)))
        x = self.mix(torch.tanh(self.b(x)))
        x = self.mix(torch.tanh(self.a(2 * x + 1)))
        x = torch.tanh(self.c(x))
        return self.end(self.c(self.mix(x)))


class Swinging(nn.Module):
    """A layer whose small variance blows up its second input, and the other way round."""

    def __init__(self):
        super().__init__()
        self.norm = BatchNorm1d(3)

    def forward(self, x):
        return self.norm(torch.tanh(self.norm(x / 50)) + 1)


class Returning(nn.Module):
    """A layer called again after another, which jump about at first."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.norm, self.between = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        with torch.no_grad():
            for parameter in (*self.norm.parameters(), *self.between.parameters()):
                parameter.normal_()

    def forward(self, x):
        return self.norm(self.between(self.second(self.norm(self.first(x)))))


class Siamese(nn.Module):
    """The whole network twice in one forward."""

    def __init__(self, depth=3, seed=0):
        super().__init__()
        self.net = mlp(depth=depth, seed=seed)

    def forward(self, x):
        return self.net(x) - self.net(x * 2 + 3)


class Branching(nn.Module):
    """Calls a layer in the middle, and its last layer once more, for some batches only."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = (BatchNorm1d(3) for _ in range(3))
        self.mix = nn.Linear(3, 3)

    def forward(self, x):
        x = torch.tanh(self.a(self.mix(x)))
        if len(x) % 2:
            x = torch.tanh(self.b(self.mix(x)))
        x = self.c(self.mix(x))
        return self.c(x * 2) if len(x) < 10 else x


@pytest.mark.parametrize("make", [Reused, Siamese])
def test_layers_called_several_times_are_counted_over_all_calls(make):
    assert_consistent(make(), drifting())


def test_statistics_that_swing_about_their_fixed_point_are_damped():
    assert_consistent(Swinging(), drifting(), rtol=1e-5)


@pytest.mark.parametrize("seed", [108, 112, 133])
def test_steps_that_were_cut_at_first_become_long_again(seed):
    assert_consistent(Returning(seed).double(), drifting(dtype=torch.float64), rtol=1e-5)


def test_rounds_that_end_too_soon_say_how_far_they_are_from_the_end(monkeypatch):
    settled = population_statistics(Returning(108).double(), drifting(dtype=torch.float64))
    assert all(0 < statistics.unsettled <= 1e-6 for statistics in settled.values())
    monkeypatch.setattr(layerwise, "MOST_ROUNDS", 12)
    cut = population_statistics(Returning(108).double(), drifting(dtype=torch.float64))
    off = max(
        ((cut[name].mean - end.mean).abs() / end.var.sqrt()).max().item() for name, end in settled.items()
    )
    assert 0.1 * off < max(statistics.unsettled for statistics in cut.values()) < 10 * off


class Counted:
    """A loader that counts the passes; its batches are made anew for each."""

    def __init__(self, make):
        self.make, self.passes = make, 0

    def __iter__(self):
        self.passes += 1
        return iter(self.make())


@pytest.mark.parametrize("seed", range(6, 12))  # with some, the changes grow at first
def test_a_network_called_twice_is_exact_after_one_pass_a_layer(seed):
    loader = Counted(drifting)
    population_statistics(Siamese(depth=4, seed=seed), loader)
    assert loader.passes == 1 + 4 + 1  # the order of calls, the layers, nothing changes any more


def test_a_noisy_loader_ends_the_rounds():
    loader = Counted(lambda: [torch.randn(64, 3) for _ in range(4)])
    population_statistics(Siamese(), loader)
    assert loader.passes < 30


def test_a_layer_called_twice_counts_every_batch_once():
    found = population_statistics(Reused(), drifting())
    assert [(s.count, s.batches, s.samples) for s in found.values()] == [
        (654, 6, 327), (327, 6, 327), (654, 6, 327), (327, 6, 327),
    ]  # fmt: skip


@pytest.mark.parametrize("first", [64, 7])
def test_forwards_that_call_other_layers_than_the_first_are_counted_too(first):
    loader = sorted(drifting(), key=lambda batch: len(batch) != first)
    model = Branching()
    assert_consistent(model, loader)
    found = population_statistics(model, loader)
    assert (found["b"].batches, found["b"].samples, found["b"].count) == (1, 7, 7)
    assert (found["c"].batches, found["c"].count) == (6, 5 * 64 + 2 * 7)


def test_several_calls_in_one_pass_are_each_normalized_with_their_own_moments():
    loader = drifting()
    found = population_statistics(Siamese(), loader, method="onepass", allow_small_batches=True)
    both = [x for batch in loader for x in (batch, batch * 2 + 3)]
    with torch.no_grad():
        given = one_pass_by_hand(mlp(depth=3), both)
    for name, values in given.items():
        assert_statistics(found[f"net.{name}"], values)


def test_each_pass_stops_at_its_layer_and_only_the_last_runs_to_the_end():
    model = mlp(depth=3)
    calls = dict.fromkeys(("0", "3", "6", "9"), 0)
    for name in calls:

        def count(module, args, output, name=name):
            calls[name] += 1

        model.get_submodule(name).register_forward_hook(count)
    population_statistics(model, drifting(), method="layerwise")
    # one forward for the order of calls, then 6 batches in each of 3 passes
    assert calls == {"0": 1 + 18, "3": 1 + 12, "6": 1 + 6, "9": 1 + 6}


def test_dropout_is_off_with_both_methods():
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    for method in METHODS:
        found = population_statistics(model, [torch.full((64, 3), 2.0)] * 2, method=method)
        assert found["1"].mean.tolist() == [2.0] * 3
        assert not found["1"].var.any()
        assert not found["3"].var.any()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_batches_that_are_not_finite_are_skipped_at_every_layer(method, value):
    loader = drifting()
    bad = loader[2].clone()
    bad[3, 1] = value
    model = mlp()
    model.insert(1, nn.Sigmoid())  # turns infinity into 0 or 1, so that the second layer sees none
    model.insert(1, BatchNorm1d(3))
    expected = population_statistics(model, loader, method=method, allow_small_batches=True)
    found = population_statistics(model, [bad, *loader, bad], method=method, allow_small_batches=True)
    for name in expected:
        assert (found[name].skipped, found[name].batches) == (2, 6)
        assert torch.equal(found[name].mean, expected[name].mean)
        assert torch.equal(found[name].var, expected[name].var)


@pytest.mark.parametrize("method", METHODS)
def test_batches_without_rows_do_not_count(method):
    loader = drifting()
    options = {"method": method, "allow_small_batches": True}
    expected = population_statistics(mlp(), loader, **options)
    found = population_statistics(mlp(), [loader[0][:0], *loader], **options)
    assert all(found[name].batches == 6 for name in found)
    assert all(torch.equal(found[name].var, expected[name].var) for name in found)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method):
    model, loader = mlp(momentum=None), shuffled()
    for batch in loader[:3]:
        model(batch)
    model[1].register_forward_pre_hook(lambda module, args: None)
    model[4].eval()
    random, before = torch.get_rng_state(), snapshot(model)
    noisy = torch.utils.data.DataLoader(torch.cat(loader), batch_size=64, shuffle=True)
    population_statistics(model, noisy, method=method, layers=["1", "4"])
    assert snapshot(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()


def test_buffers_that_a_forward_writes_are_put_back_too():
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = BatchNorm1d(3)
            self.register_buffer("calls", torch.zeros(()))
            self.register_buffer("alias", self.calls)

        def forward(self, x):
            self.calls += 1
            assert self.alias == self.calls
            return self.norm(x)

    model = Counting()
    before = snapshot(model)
    population_statistics(model, drifting())
    assert snapshot(model) == before


def test_forwards_keep_no_graph():
    def forward(model, batch):
        assert not model(batch).requires_grad

    for method in METHODS:
        population_statistics(mlp(), shuffled(), method=method, forward_fn=forward)


def test_a_graph_that_waits_for_its_backward_is_not_disturbed():
    model = mlp().eval()
    loss = model(drifting()[0]).square().mean()
    population_statistics(model, drifting())
    loss.backward()
    assert model[0].weight.grad is not None


def test_a_users_hook_that_changes_the_input_is_seen():
    model = nn.Sequential(nn.BatchNorm1d(3))
    model[0].register_forward_pre_hook(lambda module, args: (args[0] + 100,))
    assert (population_statistics(model, drifting())["0"].mean > 90).all()


def test_an_input_given_by_keyword_is_seen():
    model = nn.Sequential(nn.BatchNorm1d(3))
    found = population_statistics(model, drifting(), forward_fn=lambda m, batch: m[0](input=batch))
    assert_statistics(found["0"], torch.cat(drifting()).double().T, rtol=1e-12)


def test_a_model_that_catches_errors_does_not_catch_the_stop():
    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = mlp()

        def forward(self, x):
            try:
                return self.net(x)
            except Exception:
                return pytest.fail("caught")

    assert_consistent(Careful(), drifting())


def test_a_compiled_model_is_measured_too():
    model = mlp(nn.BatchNorm1d).eval()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        for batch in drifting():
            compiled(batch)  # code that would be used again, and knows no hooks
    found = population_statistics(compiled, drifting())
    expected = population_statistics(model, drifting())
    assert {f"_orig_mod.{name}" for name in expected} == set(found)
    assert torch.equal(found["_orig_mod.4"].var, expected["4"].var)


def test_an_averaged_model_gets_the_statistics_of_its_own_weights():
    model = mlp()
    averaged = torch.optim.swa_utils.AveragedModel(model)
    with torch.no_grad():
        model[0].weight += 1
    averaged.update_parameters(model)
    assert_consistent(averaged, drifting())


def test_dict_batches_go_through_forward_fn():
    def forward(model, batch):
        return model(batch["x"])

    loader = [{"x": batch, "name": "x"} for batch in drifting()]
    found = population_statistics(mlp(), loader, forward_fn=forward)
    expected = population_statistics(mlp(), [(batch, None) for batch in drifting()])
    assert all(torch.equal(found[name].mean, expected[name].mean) for name in expected)
    assert [s.samples for s in found.values()] == [327, 327]


# Limits and settling


@pytest.mark.parametrize("method", METHODS)
def test_limits_say_how_much_is_used(method):
    for limits, rows in (({"samples": 100}, 128), ({"batches": 3}, 192), ({"samples": 10**6}, 1280)):
        found = population_statistics(mlp(), shuffled(), method=method, **limits)
        assert [s.samples for s in found.values()] == [rows, rows]
        assert_statistics(found["1"], mlp()[0](torch.cat(shuffled())[:rows]).detach().double().T)


@pytest.mark.parametrize("method", METHODS)
def test_a_pass_stops_when_the_statistics_have_settled(method):
    loader = shuffled(batches=200)
    found = population_statistics(mlp(), loader, method=method, tolerance=0.03)
    for statistics in found.values():
        assert 8 <= statistics.batches < 60
        assert 0 < statistics.standard_error <= 0.03
    # as many as it takes to know a mean of independent values that well, give or take
    assert 300 < found["1"].samples < 4000
    few = population_statistics(mlp(), loader, method=method, tolerance=100.0)
    assert all(s.batches == 8 for s in few.values())
    all_of_it = population_statistics(mlp(), loader, method=method, tolerance=1e-9)
    assert all(s.batches == 200 for s in all_of_it.values())


def test_a_pass_does_not_settle_before_every_layer_is_reached():
    loader = shuffled()
    loader[1] = loader[1][:8]  # calls the last layer again, so that all layers are measured at once
    loader[12] = loader[12][:-1]  # the only odd batch, without which the branch is not taken
    assert "b" in population_statistics(Branching(), loader, tolerance=100.0)


# Which method


def test_small_nets_go_layer_by_layer_and_large_ones_in_one_pass():
    def taken(depth, loader):
        return measure(mlp(depth=depth), Feed(loader), "auto", None, None, False).method

    assert taken(population.SMALL_NET, shuffled()) == "layerwise"
    assert taken(population.SMALL_NET + 1, shuffled()) == "onepass"
    assert taken(population.SMALL_NET + 1, shuffled(rows=4)) == "layerwise"


@pytest.mark.parametrize(
    "loader",
    [
        shuffled(rows=16),
        shuffled(rows=31),
        torch.cat(shuffled(batches=2)).split(1),
    ],
    ids=["small", "smaller than 32", "single rows"],
)
def test_one_pass_refuses_small_batches(loader):
    with pytest.raises(
        ValueError, match=r"worth 32 or more independent values .* use larger or shuffled"
    ) as e:
        population_statistics(mlp(), loader, method="onepass")
    assert "\n" not in str(e.value)
    population_statistics(mlp(), loader, method="onepass", allow_small_batches=True)


def test_one_pass_refuses_large_batches_that_are_each_of_one_kind():
    loader = [batch + 10 * (number % 2) for number, batch in enumerate(shuffled())]
    with pytest.raises(ValueError, match=r"got 0\.\d+ at layer '1'"):
        population_statistics(mlp(), loader, method="onepass")


def test_one_pass_takes_batches_of_32_and_small_batches_of_large_images():
    for seed in range(10):  # the effective count is an estimate, which shall not decide by chance
        population_statistics(mlp(), shuffled(rows=32, seed=seed), method="onepass")
    images = [torch.randn(2, 2, 12, 12) for _ in range(10)]
    population_statistics(Images(), images, method="onepass")


def test_one_batch_alone_is_the_population_however_small():
    found = population_statistics(mlp(), shuffled(batches=1, rows=5), method="onepass")
    assert found["1"].count == 5
    assert found["1"].standard_error != found["1"].standard_error


def test_an_iterator_serves_for_one_pass_only():
    model = mlp()
    loader = shuffled()
    found = population_statistics(model, iter(loader), method="onepass")
    assert found["1"].batches == 20
    with pytest.raises(ValueError, match="for method 'layerwise', got a one-time list_iterator"):
        population_statistics(model, iter(loader))


# What a layer normalizes need not be its input with channels at axis 1


def steps(number=7, batches=3, channels=5):
    """Batches ``(N, steps, channels)`` whose channels differ."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.arange(1.0, channels + 1)
    return [torch.randn(8, number, channels, generator=generator) * scale + scale for _ in range(batches)]


def by_channel(batches):
    return torch.cat(batches).double().flatten(0, -2).T


class Last(nn.BatchNorm1d):
    """Channels last, by moving them."""

    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class OursLast(BatchNorm1d):
    def forward(self, x):
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


class Activated(nn.BatchNorm1d):
    def forward(self, x):
        return super().forward(x).relu()


class Twice(nn.BatchNorm1d):
    """Two tensors in one call."""

    def forward(self, x):
        return super().forward(x), super().forward(3 * x + 1)


class Box:
    def __init__(self, features):
        self.features = features


class Boxed(nn.BatchNorm1d):
    """Takes and gives an object, as layers for sparse data do."""

    def forward(self, box):
        return Box(super().forward(box.features))


class ByHand(nn.BatchNorm1d):
    """Does not call the forward of its base class."""

    def forward(self, x):
        return (x - self.running_mean) / (self.running_var + self.eps).sqrt()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("number", [5, 7])
@pytest.mark.parametrize(
    "layer", [lambda: BatchNorm1d(5, channel_dim=-1), lambda: Last(5), lambda: OursLast(5)]
)
def test_channels_that_are_last_are_found(layer, number, method):
    # the second layer is given what the first one makes of its statistics
    model, loader = (
        nn.Sequential(layer(), nn.Flatten(), nn.Linear(5 * number, 3), BatchNorm1d(3)),
        steps(number),
    )
    found = population_statistics(model, loader, method=method, allow_small_batches=True)
    assert_statistics(found["0"], by_channel(loader))
    assert list(found) == ["0", "3"]


@pytest.mark.parametrize("method", METHODS)
def test_subclasses_that_add_something_are_measured_as_their_base_class(method):
    loader = shuffled(batches=9)
    model = nn.Sequential(Activated(3), nn.Linear(3, 3), Activated(3))
    expected = copy.deepcopy(model)
    expected[0] = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    expected[2] = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    found = population_statistics(model, loader, method=method)
    for name, wanted in population_statistics(expected, loader, method=method).items():
        assert torch.equal(found[name.removesuffix(".0")].mean, wanted.mean)
        assert torch.equal(found[name.removesuffix(".0")].var, wanted.var)
    assert "_check_input_dim" not in vars(model[0])


def test_all_that_one_call_normalizes_counts():
    loader = shuffled(batches=3)
    found = population_statistics(nn.Sequential(Twice(3)), loader)
    whole = torch.cat(loader).double()
    assert_statistics(found["0"], torch.cat([whole, 3 * whole + 1]).T)
    assert found["0"].batches == 3


@pytest.mark.parametrize("method", METHODS)
def test_what_a_layer_takes_out_of_an_object_is_measured(method):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.end = Boxed(3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.end(self.norm(Box(x)).features)

    loader = shuffled()
    found = population_statistics(Net(), loader, method=method)
    assert_statistics(found["norm"], torch.cat(loader).double().T)
    assert list(found) == ["norm", "end"]


def test_a_layer_that_computes_by_itself_is_measured_at_axis_one_or_refused():
    loader = shuffled()
    assert_statistics(
        population_statistics(nn.Sequential(ByHand(3)), loader)["0"], torch.cat(loader).double().T
    )
    model = nn.Sequential(ByHand(5), nn.Flatten(), nn.BatchNorm1d(35))
    words = (
        r"recalibrate: '0', a ByHand with a forward of its own, expected 5 channels at axis 1, got shape "
        r"\(8, 7, 5\); name the other layers in layers="
    )
    with pytest.raises(ValueError, match=words):
        population_statistics(model, steps())
    assert list(population_statistics(model, steps(), layers=["2"])) == ["2"]


class Masked(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.norm, self.end = BatchNorm1d(5, channel_dim=-1, **options), BatchNorm1d(5, channel_dim=-1)

    def forward(self, x, mask):
        return self.end(self.norm(x, mask=mask).tanh(), mask=mask)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", [torch.bool, torch.float32])
def test_what_a_mask_excludes_does_not_count(kind, method):
    loader = [
        {"x": x.masked_fill(~mask[..., None], torch.nan), "mask": mask.to(kind)}
        for x, mask in ((x, torch.arange(7) < torch.randint(1, 8, (8, 1))) for x in steps())
    ]
    model = Masked(excluded="zero")
    found = population_statistics(model, loader, method=method, allow_small_batches=True)
    values = torch.cat([batch["x"][batch["mask"] > 0] for batch in loader])
    assert_statistics(found["norm"], values.double().T)
    assert found["end"].count == len(values)


class ByPosition(BatchNorm1d):
    def forward(self, x, mask):
        return super().forward(x, mask=mask)


def test_a_mask_may_come_by_position():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = ByPosition(5, channel_dim=-1)

        def forward(self, x, mask):
            return self.norm(x, mask)

    (x, *_), mask = steps(batches=1), torch.arange(7) < torch.randint(1, 8, (8, 1))
    found = population_statistics(Model(), [{"x": x, "mask": mask}])
    assert_statistics(found["norm"], x[mask].double().T)


class ByLengths(BatchNorm1d):
    def forward(self, x, lengths):
        return super().forward(x, mask=torch.arange(x.shape[1]) < lengths[:, None])


class Selecting(nn.BatchNorm1d):
    def forward(self, x, mask):
        out = torch.zeros_like(x)
        out[mask] = super().forward(x[mask])
        return out


@pytest.mark.parametrize("norm", [ByLengths(5, channel_dim=-1), Selecting(5)])
def test_a_class_may_make_its_mask_or_apply_it(norm):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = norm

        def forward(self, x, lengths):
            masked = isinstance(norm, Selecting)
            return self.norm(x, mask=torch.arange(7) < lengths[:, None]) if masked else self.norm(x, lengths)

    (x, *_), lengths = steps(batches=1), torch.randint(1, 8, (8,))
    found = population_statistics(Model(), [{"x": x, "lengths": lengths}])
    assert_statistics(found["norm"], x[torch.arange(7) < lengths[:, None]].double().T)


def test_weights_of_a_mask_count_as_in_the_layer():
    x, mask = steps(batches=1)[0], torch.rand(8, 7)
    model = Masked(momentum=1.0)
    model(x, mask)
    wanted = model.norm
    found = population_statistics(model, [{"x": x, "mask": mask}], layers=["norm"])["norm"]
    torch.testing.assert_close(found.mean.float(), wanted.running_mean)
    torch.testing.assert_close(found.var.float(), wanted.running_var)
    assert found.count == pytest.approx(mask.sum().item())


def test_a_mask_for_each_channel_is_refused():
    x = steps(batches=1)[0]
    with pytest.raises(ValueError, match=r"recalibrate: mask of 'norm' expected the same for all channels"):
        population_statistics(Masked(), [{"x": x, "mask": x > 0}])


@pytest.mark.parametrize("method", METHODS)
def test_a_forward_that_writes_into_its_input_does_not_change_the_data(method):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)

        def forward(self, x):
            return self.second(self.first(x.mul_(2).sub_(1)).tanh())

    loader = shuffled()
    before = [batch.clone() for batch in loader]
    found = population_statistics(Scaled(), loader, method=method)
    assert_statistics(found["first"], torch.cat([2 * batch - 1 for batch in before]).double().T)
    assert all(map(torch.equal, loader, before))


# TorchScript


@pytest.mark.parametrize("freeze", [False, True])
def test_a_scripted_part_predicts_and_is_as_before(freeze):
    torch.manual_seed(0)
    part = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    scripted = torch.jit.script(part)
    if freeze:
        part.eval()
        with warnings.catch_warnings(action="ignore"):
            scripted = torch.jit.freeze(torch.jit.script(part))
    model = nn.Sequential(scripted, nn.BatchNorm1d(3))
    before, training = snapshot(model[1]), [getattr(m, "training", None) for m in model.modules()]
    state = {name: value.clone() for name, value in model.state_dict().items()}
    buffers = dict(model.named_buffers())
    loader = shuffled()
    found = population_statistics(model, loader)
    assert list(found) == ["1"]
    with torch.no_grad():
        assert_statistics(found["1"], part.eval()(torch.cat(loader)).double().T)
    assert snapshot(model[1]) == before
    assert [getattr(m, "training", None) for m in model.modules()] == training
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all(value is buffers[name] for name, value in model.named_buffers())


def test_a_scripted_batch_norm_is_left_and_listed():
    model = nn.Sequential(torch.jit.script(nn.Sequential(nn.BatchNorm1d(3))), nn.BatchNorm1d(3))
    measured = measure(model, Feed(shuffled()), "auto", None, None, False)
    assert (list(measured.statistics), measured.untouched) == (["1"], {"0.0": "scripted"})


# What is refused


class OnlyOnce:
    def __init__(self, batches):
        self.batches = iter(batches)

    def __iter__(self):
        yield from self.batches


@pytest.mark.parametrize(
    ("loader", "options", "words"),
    [
        ([], {}, "loader expected one batch or more, got none"),
        ([], {"method": "onepass"}, "loader expected one batch or more in every pass, got none"),
        (OnlyOnce(drifting()), {}, "loader expected one batch or more in every pass, got none"),
        ([drifting()[0] / 0] * 3, {}, "got 3 with NaN or infinite values"),
        ([torch.ones(1, 3)], {}, "loader expected 2 or more values per channel at '1', got 1"),
        (["x"], {}, "forward_fn=lambda model, batch: … runs another kind"),
        (drifting(), {"method": "fast"}, "method expected one of auto, layerwise, onepass, got 'fast'"),
        (drifting(), {"tolerance": 0.0}, "tolerance expected a number > 0, got 0.0"),
        (drifting(), {"tolerance": float("nan")}, "tolerance expected a number > 0, got nan"),
        (drifting(), {"samples": 0}, "samples expected a whole number of 1 or more, got 0"),
        (drifting(), {"layers": ["2"]}, "got '2'"),
    ],
)
def test_a_wrong_argument_is_named_in_one_line(loader, options, words):
    model = mlp()
    before = snapshot(model)
    with pytest.raises(ValueError, match=r"^recalibrate: ") as caught:
        population_statistics(model, loader, **options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert snapshot(model) == before


@pytest.mark.parametrize("method", METHODS)
def test_the_layers_own_error_about_its_input_is_the_one_that_shows(method):
    with pytest.raises(ValueError, match="expected 2D or 3D input"):
        population_statistics(nn.Sequential(nn.BatchNorm1d(3)), [torch.ones(3)], method=method)
    with pytest.raises(RuntimeError, match="running_mean should contain 4 elements not 3"):
        population_statistics(nn.Sequential(nn.BatchNorm1d(3)), [torch.ones(5, 4)], method=method)


def test_a_model_without_batch_norm_has_no_statistics_and_asks_for_no_data():
    assert population_statistics(nn.Linear(2, 2), None) == {}


def test_layers_that_the_data_do_not_reach_are_missing_and_listed():
    model = mlp()
    model.spare = BatchNorm1d(3)
    model.forward = lambda x: model[:6](x)
    measured = measure(model, Feed(drifting()), "auto", None, None, False)
    assert list(measured.statistics) == ["1", "4"]
    assert measured.untouched == {"spare": "not reached by the data"}
