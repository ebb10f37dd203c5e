import copy
import io
import pickle
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import batchnorm as bn
from batchnorm.surgery.exchange import BatchNormNd
from tests.processes import in_processes

KINDS = {
    "plain": {},
    "eps and momentum": {"eps": 1e-3, "momentum": 0.3},
    "cumulative": {"momentum": None},
    "no affine": {"affine": False},
    "untracked": {"track_running_stats": False},
    "nothing": {"affine": False, "track_running_stats": False},
    "double": {"dtype": torch.float64},
    "half": {"dtype": torch.float16},
    "half, no affine": {"dtype": torch.bfloat16, "affine": False},
    "meta": {"device": "meta"},
}
CLASSES = [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d]


def spoiled(layer, seed=0):
    """No number of the layer is that of a new one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in (*layer.parameters(), *layer.buffers()):
            if value.device.type != "meta":
                value.copy_(torch.rand(value.shape, generator=generator) * 5 + 1)
    return layer


def fingerprint(model):
    """All that a round trip must bring back, by value."""
    return {
        name: (
            type(module),
            repr(module),
            [key for key in vars(module) if key not in ("_parameters", "_buffers", "_modules")],
            {key: value for key, value in vars(module).items() if isinstance(value, int | float | str)},
            [(key, None if v is None else (v.dtype, v.device, v.requires_grad, bits(v))) for key, v in (
                *module._parameters.items(), *module._buffers.items())],
            sorted(module._non_persistent_buffers_set),
        )
        for name, module in model.named_modules(remove_duplicate=False)
    }  # fmt: skip


def bits(value):
    return (
        b"" if value.device.type == "meta" else value.detach().reshape(-1).view(torch.uint8).numpy().tobytes()
    )


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [True, False])
def test_the_layer_is_ours_and_then_what_it_was(cls, kind, training):
    model = nn.Sequential(spoiled(cls(3, **KINDS[kind]))).train(training)
    model.tag = "mine"
    before = fingerprint(model)
    objects = {name: id(value) for name, value in (*model.named_parameters(), *model.named_buffers())}
    same, report = bn.convert(model)
    assert same is model
    assert report.to_dict() == {"converted": ["0"], "fused": {}, "left": {}}
    assert type(model[0]) is getattr(bn, cls.__name__)
    assert list(model.state_dict()) == list(nn.Sequential(cls(3, **KINDS[kind])).state_dict())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        half = "half" in kind and name.startswith("0.running")
        assert value.dtype == (
            torch.float32 if half else model.get_buffer(name).dtype if "num" in name else value.dtype
        )
        assert half or id(value) == objects[name]
    same, report = bn.revert(model)
    assert same is model
    assert report.converted == ("0",)
    assert fingerprint(model) == before


def test_a_layer_without_bias_stays_without():
    layer = nn.BatchNorm1d(2)
    layer.register_parameter("bias", None)
    before = fingerprint(layer)
    bn.convert(layer)
    assert isinstance(layer, bn.BatchNorm1d)
    assert layer(torch.randn(4, 2)).shape == (4, 2)
    bn.revert(layer)
    assert fingerprint(layer)[""][:4] == before[""][:4]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["plain", "cumulative", "no affine", "untracked", "nothing", "double"])
def test_outputs_gradients_and_statistics_are_torchs(kind, training):
    theirs = spoiled(nn.BatchNorm2d(3, **KINDS[kind])).train(training)
    ours, _ = bn.convert(copy.deepcopy(theirs))
    x = torch.randn(4, 3, 5, 5, dtype=KINDS[kind].get("dtype"), requires_grad=True)
    for model in (theirs, ours):
        model(x).square().sum().backward()
    torch.testing.assert_close(ours(x), theirs(x))
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_statistics_moved_meanwhile_are_kept_on_the_way_back():
    model, _ = bn.convert(nn.Sequential(nn.BatchNorm1d(3)))
    model(torch.randn(20, 3) + 4)
    moved = model[0].running_mean.clone()
    bn.revert(model)
    assert torch.equal(model[0].running_mean, moved)
    assert model[0].num_batches_tracked == 1


@pytest.mark.parametrize(("cast", "dtype"), [("half", torch.float16), ("double", torch.float64)])
def test_a_cast_meanwhile_is_followed_as_torchs_layer_would(cast, dtype):
    model, _ = bn.convert(nn.Sequential(nn.BatchNorm1d(3)))
    getattr(model, cast)()
    assert model[0].running_mean.dtype == (torch.float32 if cast == "half" else dtype)
    bn.revert(model)
    assert model[0].running_mean.dtype == model[0].running_var.dtype == dtype


def hooked(model, calls):
    """Every kind of hook there is, on every module."""
    for name, module in model.named_modules():

        def note(kind, name=name):
            return lambda *args, **kwargs: calls.append((name, kind))

        module.register_forward_pre_hook(note("pre"))
        module.register_forward_pre_hook(note("pre kwargs"), with_kwargs=True)
        module.register_forward_hook(note("forward"))
        module.register_forward_hook(note("forward kwargs"), with_kwargs=True, always_call=True)
        module.register_full_backward_pre_hook(note("backward pre"))
        module.register_full_backward_hook(note("backward"))
        module.register_state_dict_pre_hook(note("state pre"))
        module.register_state_dict_post_hook(note("state post"))
        module.register_load_state_dict_pre_hook(note("load pre"))
        module.register_load_state_dict_post_hook(note("load post"))
    return model


def test_hooks_of_all_kinds_fire_in_turn_and_their_handles_still_remove_them():
    calls = []
    model = hooked(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), calls)
    extra = model[1].register_forward_hook(lambda *args: calls.append("extra"))

    def use():
        calls.clear()
        model(torch.randn(4, 2, requires_grad=True)).sum().backward()
        model.load_state_dict(model.state_dict())
        return list(calls)

    expected = use()
    bn.convert(model)
    assert use() == expected
    assert len(set(expected)) == 3 * 10 + 1
    extra.remove()
    bn.revert(model)
    assert use() == [call for call in expected if call != "extra"]


def test_optimizers_go_on_with_the_same_parameters():
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    bn.convert(model)
    weight = model[1].weight.clone()
    model(torch.randn(8, 2)).square().mean().backward()
    model[1].weight.grad.fill_(1)
    optimizer.step()
    torch.testing.assert_close(model[1].weight, weight - 0.1)


def test_shared_layers_and_outside_references_stay_the_same_object():
    shared = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": shared, "c": nn.BatchNorm1d(3)})
    _, report = bn.convert(model)
    assert report.converted == ("a.0", "c")
    assert model["a"][0] is model["b"] is shared
    assert type(shared) is bn.BatchNorm1d


def test_flags_survive():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[0].eval().requires_grad_(False)
    for step in (bn.convert, bn.revert):
        step(model)
        assert not model[0].training
        assert model[1].training
        assert not model[0].weight.requires_grad
        assert model[1].weight.requires_grad


def test_a_model_that_is_a_layer_is_converted_itself():
    layer = nn.BatchNorm1d(3)
    model, report = bn.convert(layer)
    assert model is layer
    assert report.converted == ("",)
    assert type(bn.revert(model)[0]) is nn.BatchNorm1d


class Named(nn.BatchNorm2d):
    """Only a constructor of its own."""

    def __init__(self, features):
        super().__init__(features, eps=1e-3)


class Renamed(Named):
    pass


class Scaled(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input) * 2


class AnyRank(nn.BatchNorm2d):
    def _check_input_dim(self, input):
        pass


class Scratch(nn.modules.batchnorm._BatchNorm):
    pass


class Squared(nn.Module):
    def forward(self, x):
        return x * x


def replaced_forward():
    layer = nn.BatchNorm2d(3)
    layer.forward = lambda input: input
    return layer


LEFT = {
    "forward": (lambda: Scaled(3), "is of a class of its own: Scaled defines forward"),
    "check": (lambda: AnyRank(3), "is of a class of its own: AnyRank defines _check_input_dim"),
    "scratch": (lambda: Scratch(3), "is of a class of its own: Scratch"),
    "ours and more": (
        lambda: type("Mine", (bn.BatchNorm2d,), {})(3),
        "is of a class of its own: Mine",
    ),
    "lazy": (nn.LazyBatchNorm2d, "has no parameters yet: run the model once"),
    "lazy, no affine": (
        lambda: nn.LazyBatchNorm2d(affine=False, track_running_stats=False),
        "has no parameters yet: run the model once",
    ),
    "object": (replaced_forward, "has a forward of its own"),
    "parametrized": (
        lambda: parametrize.register_parametrization(nn.BatchNorm2d(3), "weight", Squared()),
        "is parametrized",
    ),
    "ours": (lambda: bn.BatchNorm2d(3), "is ours already"),
}


@pytest.mark.parametrize("kind", LEFT)
def test_a_layer_that_does_something_of_its_own_is_left_alone_with_the_reason(kind):
    make, reason = LEFT[kind]
    model = nn.Sequential(make(), nn.BatchNorm2d(3))
    cls, attributes = type(model[0]), dict(vars(model[0]))
    _, report = bn.convert(model)
    assert report.converted == ("1",)
    assert list(report.left) == ["0"]
    assert report.left["0"].startswith(reason)
    assert type(model[0]) is cls
    assert vars(model[0]) == attributes
    _, report = bn.revert(model)
    assert report.converted == ("1",)
    assert type(model[0]) is cls
    assert vars(model[0]) == attributes


@pytest.mark.parametrize("cls", [Named, Renamed])
def test_a_subclass_with_only_a_constructor_is_converted_and_comes_back(cls):
    model = nn.Sequential(spoiled(cls(3)))
    before = fingerprint(model)
    bn.convert(model)
    assert type(model[0]) is bn.BatchNorm2d
    assert model[0].eps == 1e-3
    bn.revert(model)
    assert fingerprint(model) == before


def test_pruned_layers_keep_their_masks():
    layer = nn.BatchNorm1d(4)
    prune.random_unstructured(layer, "weight", 0.5)
    x = torch.randn(6, 4)
    expected = layer(x)
    bn.convert(layer)
    torch.testing.assert_close(layer(x), expected)


def test_a_lazy_layer_that_ran_is_a_layer_like_others():
    model = nn.Sequential(nn.LazyBatchNorm1d())
    model(torch.randn(3, 2))
    assert bn.convert(model)[1].converted == ("0",)


@pytest.mark.parametrize("make", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), "save"])
def test_copies_and_pickles_can_be_reverted(make):
    model, _ = bn.convert(nn.Sequential(spoiled(Named(3))))
    if make == "save":
        file = io.BytesIO()
        torch.save(model, file)
        file.seek(0)
        other = torch.load(file, weights_only=False)
    else:
        other = make(model)
    bn.revert(other)
    assert type(other[0]) is Named
    assert type(model[0]) is bn.BatchNorm2d


def test_ours_from_the_start_become_torchs_but_not_within_a_round_trip():
    model = nn.Sequential(bn.BatchNorm1d(2), nn.BatchNorm1d(2), bn.BatchNorm1d(2, activation="relu"))
    bn.convert(model)
    _, report = bn.revert(model)
    assert report.converted == ("1",)
    assert report.left.keys() == {"0", "2"}
    assert type(model[0]) is bn.BatchNorm1d
    _, report = bn.revert(model)
    assert report.converted == ("0",)
    assert report.left == {"2": "has an activation, relu, which torch's layer has not"}
    assert fingerprint(model[0]) == fingerprint(nn.BatchNorm1d(2))


def test_averages_are_ours_alone():
    model = nn.Sequential(bn.BatchNorm2d(2, avg_pool=2), nn.BatchNorm2d(2))
    assert bn.revert(model)[1].left == {"0": "has an avg_pool, 2, which torch's layer has not"}
    bn.convert(model, bn.stats.Ghost(2))
    assert model[0].avg_pool == 2
    bn.revert(model)
    assert (model[0].avg_pool, type(model[1])) == (2, nn.BatchNorm2d)


def test_ours_take_new_statistics_keep_their_options_and_give_both_back():
    model = nn.Sequential(bn.BatchNorm1d(2, activation="relu", backend="eager", nonfinite="skip"))
    before = fingerprint(model)
    _, report = bn.convert(model, bn.stats.Batch())
    assert report.converted == ("0",)
    assert (model[0].activation, model[0].backend, model[0].nonfinite) == ("relu", "eager", "skip")
    bn.revert(model)
    assert fingerprint(model) == before


def test_attributes_under_our_names_are_given_back():
    layer = nn.BatchNorm1d(2)
    layer.stats = {"mine": 1}
    bn.convert(layer)
    assert layer.stats == bn.stats.Batch()
    bn.revert(layer)
    assert layer.stats == {"mine": 1}


@pytest.mark.parametrize("training", [True, False])
def test_sync_batch_norm_is_taken_and_given_back(training):
    plain = spoiled(nn.BatchNorm2d(3, eps=1e-2)).train(training)
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(copy.deepcopy(plain)), "group")
    before = fingerprint(model)
    _, report = bn.convert(model, bn.stats.Batch())
    assert report.converted == ("0",)
    assert type(model[0]) is BatchNormNd
    x = torch.randn(4, 3, 5, 5)
    torch.testing.assert_close(copy.deepcopy(model)(x), plain(x))
    with pytest.raises(ValueError, match=r"expected at least 2D input \(got 1D input\)"):
        model(torch.randn(3))
    bn.revert(model)
    assert fingerprint(model) == before
    assert bn.revert(model)[1].left == {"0": "is torch's already, and does not tell its rank"}


def synchronized(rank):
    torch.manual_seed(rank)
    group = torch.distributed.new_group([0, 1])
    model = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.BatchNorm1d(3)), group)
    bn.convert(model)
    model = copy.deepcopy(model)  # torch's layer cannot be copied with a group
    assert model[0].stats == bn.stats.Synced(group)
    with pytest.raises(TypeError, match="group expected None to be pickled, got a process group"):
        pickle.dumps(model)
    reverted = bn.revert(copy.deepcopy(model))[0][0]
    assert type(reverted) is nn.SyncBatchNorm
    assert reverted.process_group is group
    x = torch.randn(2 + rank, 3)
    return x, model(x).detach()


def test_sync_batch_norm_keeps_its_group():
    inputs, outputs = zip(*in_processes(2, synchronized), strict=True)
    torch.testing.assert_close(torch.cat(outputs), nn.BatchNorm1d(3)(torch.cat(inputs)).detach())


def test_each_row_starts_as_a_copy_and_equal_rows_become_the_one_they_were():
    model = nn.Sequential(spoiled(nn.BatchNorm1d(3)))
    before, old = fingerprint(model), copy.deepcopy(model[0])
    bn.convert(model, bn.stats.Domains(2))
    layer = model[0]
    assert layer.running_mean.tolist() == [old.running_mean.tolist()] * 2
    assert layer.running_var.tolist() == [old.running_var.tolist()] * 2
    assert layer.num_batches_tracked.tolist() == [old.num_batches_tracked.item()] * 2
    bn.revert(model)
    assert fingerprint(model) == before


def test_rows_that_differ_become_their_mixture():
    layer, _ = bn.convert(nn.BatchNorm1d(1), bn.stats.Domains(2))
    layer.running_mean.copy_(torch.tensor([[0.0], [4.0]]))
    layer.running_var.copy_(torch.tensor([[1.0], [3.0]]))
    layer.num_batches_tracked.copy_(torch.tensor([5, 7]))
    bn.revert(layer)
    assert (layer.running_mean.item(), layer.running_var.item()) == (2.0, 2.0 + 4.0)
    assert layer.num_batches_tracked == 7


OTHER_STATISTICS = {
    "synced": bn.stats.Synced(),
    "ghost": bn.stats.Ghost(2),
    "renorm": bn.stats.Renorm(),
    "frozen": bn.stats.Frozen(),
    "all frozen": bn.stats.Frozen(affine=True),
    "accumulated": bn.stats.Accumulated(2),
    "domains": bn.stats.Domains(3),
    "steps": bn.stats.PerStep(4),
}


@pytest.mark.parametrize("kind", OTHER_STATISTICS)
def test_every_kind_of_statistics_is_given_with_fusion_and_taken_back(kind):
    stats = OTHER_STATISTICS[kind]
    model = nn.Sequential(nn.Linear(2, 3), spoiled(nn.BatchNorm1d(3)), nn.ReLU())
    model[1].bias.requires_grad_(False)
    before = fingerprint(model)
    made = bn.BatchNorm1d(3, stats=stats, activation="relu")
    for example in (None, torch.randn(4, 2)):
        _, report = bn.convert(model, stats, fuse=True, example=example)
        assert report.fused == {"1": "relu"}
        assert repr(model[1]) == repr(made)
        assert model[1].running_mean.shape == made.running_mean.shape
        assert model[1].weight.requires_grad == made.weight.requires_grad
        where = {"domains": {"domain": 1}, "steps": {"step": 2}}.get(kind, {})
        assert torch.isfinite(copy.deepcopy(model[1])(torch.randn(4, 3), **where)).all()
        bn.revert(model)
        assert fingerprint(model) == before


def test_other_statistics_replace_those_of_a_first_call():
    model = nn.Sequential(spoiled(nn.BatchNorm1d(3)))
    before = fingerprint(model)
    for stats in (bn.stats.Frozen(affine=True), bn.stats.Domains(2), bn.stats.PerStep(3), bn.stats.Ghost(4)):
        bn.convert(model, stats)
        assert model[0].stats == stats
        assert model[0].weight.requires_grad == (stats != bn.stats.Frozen(affine=True))
    bn.revert(model)
    assert fingerprint(model) == before


def test_our_layers_with_statistics_of_their_own_are_not_fused_in_passing():
    model = nn.Sequential(bn.BatchNorm1d(3, stats=bn.stats.Ghost(2)), nn.ReLU())
    _, report = bn.convert(model, fuse=True)
    assert report.left == {"0": "not fused: has statistics of its own, Ghost(size=2, last='merge')"}


def test_a_layer_that_averages_takes_no_activation_from_behind():
    model = nn.Sequential(bn.BatchNorm2d(3, avg_pool=2), nn.ReLU())
    _, report = bn.convert(model, bn.stats.Batch(), fuse=True)
    assert report.left == {"0": "not fused: averages over windows before what follows"}


def test_a_layer_that_the_constructor_refuses_is_left_and_listed():
    layer = nn.BatchNorm1d(3, track_running_stats=False)
    _, report = bn.convert(layer, bn.stats.Frozen())
    assert report.left == {
        "": "batch_norm: track_running_stats expected True with Frozen(affine=False), got False"
    }
    assert type(layer) is nn.BatchNorm1d


@pytest.mark.parametrize("options", [{}, {"fuse": True}, {"fuse": True, "example": torch.ones(4, 3)}])
def test_scripted_parts_are_left_and_listed_where_they_are_batch_norms(options):
    with warnings.catch_warnings(action="ignore"):  # of torch.jit as a whole; it still works
        scripted = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    model = nn.Sequential(scripted, nn.BatchNorm1d(3), nn.ReLU())
    _, report = bn.convert(model, **options)
    assert report.converted == ("1",)
    assert report.left == {"0.1": "scripted"}
    assert report.fused == ({"1": "relu"} if options else {})
    assert not hasattr(scripted, "activation")


def test_an_interrupted_conversion_changes_nothing(monkeypatch):
    model = nn.Sequential(nn.BatchNorm1d(2), nn.BatchNorm2d(2))
    before = fingerprint(model)

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(bn.BatchNorm2d, "__init__", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bn.convert(model)
    assert fingerprint(model) == before


def test_what_is_no_module_and_no_statistics_is_refused():
    with pytest.raises(TypeError, match=r"convert: model expected a torch\.nn\.Module, got int"):
        bn.convert(3)
    with pytest.raises(TypeError, match=r"revert: model expected a torch\.nn\.Module, got int"):
        bn.revert(3)
    with pytest.raises(ValueError, match=r"convert: stats expected a kind of batchnorm\.stats, got 'batch'"):
        bn.convert(nn.BatchNorm1d(2), "batch")


def test_errors_of_a_converted_layer_name_its_place_in_the_model():
    model, _ = bn.convert(nn.Sequential(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())), fuse=True)
    assert model[0][0].title() == "layer 0.0 (num_features 3)"
