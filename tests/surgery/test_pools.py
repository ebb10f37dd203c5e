"""Average pooling goes into the batch norm before it where nobody else would notice."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

import batchnorm as bn
from tests.surgery.test_convert import fingerprint, spoiled
from tests.surgery.test_fuse import assert_same_function, doubles  # noqa: F401


def images():
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Twice(nn.Module):
    """One activation and one pooling for two stages, as LeNet is often written."""

    def __init__(self, run=None):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 1), spoiled(nn.BatchNorm2d(3), 1)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 1), spoiled(nn.BatchNorm2d(3), 2)
        self.act, self.pool = nn.Sigmoid(), nn.AvgPool2d(2)
        self.run = run

    def forward(self, x):
        if self.run is not None:
            return self.run(self, x)
        x = self.pool(self.act(self.bn1(self.conv1(x))))
        return self.pool(self.act(self.bn2(self.conv2(x))))


def chain(*rest, norm=None):
    return nn.Sequential(nn.Conv2d(3, 3, 1), norm or spoiled(nn.BatchNorm2d(3)), *rest)


FUSED = {
    "behind an activation": (lambda: chain(nn.ReLU(), nn.AvgPool2d(2)), {"1": "relu, avg_pool 2"}),
    "behind batch norm": (lambda: chain(nn.AvgPool2d(2), nn.Flatten()), {"1": "avg_pool 2"}),
    "windows as pairs": (lambda: chain(nn.SiLU(), nn.AvgPool2d((4, 4), [4, 4])), {"1": "silu, avg_pool 4"}),
    "a list": (lambda: chain(nn.SiLU(), nn.AvgPool2d([2, 2])), {"1": "silu, avg_pool 2"}),
    "a sequence of one": (lambda: chain(nn.SiLU(), nn.AvgPool2d((2,), [2])), {"1": "silu, avg_pool 2"}),
    "an integer of NumPy": (lambda: chain(nn.SiLU(), nn.AvgPool2d(np.int64(2))), {"1": "silu, avg_pool 2"}),
    "windows with a rest": (lambda: chain(nn.Tanh(), nn.AvgPool2d(3, 3)), {"1": "tanh, avg_pool 3"}),
    "past an identity": (
        lambda: chain(nn.Identity(), nn.ReLU(), nn.Identity(), nn.AvgPool2d(2)),
        {"1": "relu, avg_pool 2"},
    ),
    "behind ours": (
        lambda: chain(nn.AvgPool2d(2), norm=bn.BatchNorm2d(3, activation="gelu")),
        {"1": "avg_pool 2"},
    ),
    "one for two stages": (Twice, {"bn1": "sigmoid, avg_pool 2", "bn2": "sigmoid, avg_pool 2"}),
}


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("case", FUSED)
def test_it_is_fused_and_given_back(case, example):
    make, fused = FUSED[case]
    model = make()
    original, before = copy.deepcopy(model), fingerprint(model)
    _, report = bn.convert(model, fuse=True, example=images() if example else None)
    assert report.fused == fused
    assert not any(isinstance(module, nn.AvgPool2d) for module in model.modules())
    assert_same_function(model, original, images())
    assert_same_function(pickle.loads(pickle.dumps(model)), original, images())
    _, report = bn.revert(model)
    if case != "behind ours":
        assert report.fused == fused
    assert fingerprint(model) == before


def test_behind_an_addition():
    def run(self, x):
        return self.pool(torch.relu(self.bn1(self.conv1(x)) + x))

    model = Twice(run)
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"bn1": "add, relu, avg_pool 2"}
    assert_same_function(model, original, images())


def watched(module):
    module.register_forward_hook(lambda module, args, output: None)
    return module


def wrapped(module):
    forward = module.forward
    module.forward = lambda x: forward(x)
    return module


class Subclass(nn.AvgPool2d):
    def forward(self, input):
        return super().forward(input) + 1


def without_stride(pool):
    pool.stride = None
    return pool


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.AvgPool2d(2, 1),
        nn.AvgPool2d((2, 4)),
        nn.AvgPool2d(2, padding=1),
        nn.AvgPool2d(3, ceil_mode=True),
        nn.AvgPool2d(2, divisor_override=3),
        nn.AvgPool2d(1),
        nn.AdaptiveAvgPool2d(1),
        Subclass(2),
        watched(nn.AvgPool2d(2)),
        wrapped(nn.AvgPool2d(2)),
        nn.Sequential(nn.AvgPool2d(2)),
        without_stride(nn.AvgPool2d(2)),
    ],
    ids=str,
)
def test_what_a_layer_cannot_do_is_left(pool):
    model = chain(nn.ReLU(), pool)
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"1": "relu"}
    assert_same_function(model, original, images())


def another_use(self, x):
    y = self.act(self.bn1(self.conv1(x)))
    return self.pool(y).sum() + y.mean() + self.pool(self.act(self.bn2(self.conv2(x)))).sum()


def something_else_too(self, x):
    return self.pool(self.pool(self.act(self.bn1(self.conv1(x)))))


def not_always(self, x):
    y = self.pool(self.act(self.bn1(self.conv1(x))))
    return self.act(self.bn1(self.conv2(x))).sum() + y.sum()


def without_gradients(self, x):
    with torch.no_grad():
        y = self.pool(self.act(self.bn1(self.conv1(x))))
    return y + self.conv2(x)[:, :, ::2, ::2]


@pytest.mark.parametrize("run", [another_use, something_else_too, not_always, without_gradients])
@pytest.mark.parametrize("example", [False, True])
def test_where_others_would_notice_it_is_left(run, example):
    model = Twice(run)
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images() if example else None)
    assert not any("avg_pool" in words for words in report.fused.values())
    assert type(model.pool) is nn.AvgPool2d
    assert_same_function(model, original, images())


class Other(nn.Module):
    """Calls a layer where nobody can know."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        return self.norm(x) if x.sum() > 0 else x


class WithoutGradients(Other):
    @torch.no_grad()
    def forward(self, x):
        return self.norm(x)


@pytest.mark.parametrize("other", [Other, WithoutGradients])
@pytest.mark.parametrize("example", [False, True])
def test_a_call_in_code_of_another_kind_keeps_the_layer(other, example):
    def run(self, x):
        return self.pool(self.bn1(x)) + self.pool(self.bn2(x)), self.bn2(2 * x), self.other(x)

    model = Twice(run)
    model.other = other(model.bn1)
    expected = [y.shape for y in model(images())]
    bn.convert(model, fuse=True, example=images() if example else None)
    assert model.bn1.avg_pool == model.bn2.avg_pool == 1
    assert [y.shape for y in model(images())] == expected


def test_an_activation_with_a_forward_of_its_own_is_left():
    model = chain(wrapped(nn.Sigmoid()), nn.AvgPool2d(2))
    _, report = bn.convert(model, fuse=True)
    assert report.fused == {}


@pytest.mark.parametrize("which", ["bn1", "act"])
def test_a_hook_keeps_its_layer(which):
    model = Twice()
    watched(getattr(model, which))
    _, report = bn.convert(model, fuse=True, example=images())
    assert not any("avg_pool" in words for words in report.fused.values())


class Method(Twice):
    def features(self, x):
        return self.act(self.bn1(self.conv1(x)))


class PoolAlone(Twice):
    def thumbnails(self, x):
        return self.pool(x)


@pytest.mark.parametrize("cls", [Method, PoolAlone])
def test_a_method_that_uses_one_of_them_alone_keeps_them(cls):
    model = cls()
    before = cls.features(model, images()) if cls is Method else model.thumbnails(images())
    bn.convert(model, fuse=True, example=images())
    after = model.features(images()) if cls is Method else model.thumbnails(images())
    assert before.shape == after.shape
    assert model.bn1.avg_pool == model.bn2.avg_pool == 1


def test_a_volume_or_a_sequence_keeps_its_pooling():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.AvgPool2d(2))
    _, report = bn.convert(model, fuse=True)
    assert report.fused == {"0": "relu"}


def test_what_makes_a_difference_is_taken_back():
    class Reads(Twice):
        def forward(self, x):
            y = self.pool(self.act(self.bn1(self.conv1(x))))
            return y * (2 if isinstance(self.pool, nn.AvgPool2d) else 1)

    model = Reads()
    original = copy.deepcopy(model)
    bn.convert(model, fuse=True, example=images())
    assert_same_function(model, original, images())
    assert model.bn1.avg_pool == 1


@pytest.mark.parametrize("stats", [bn.stats.Ghost(2), bn.stats.Frozen()])
def test_other_statistics_average_too(stats):
    model = bn.convert(Twice(), stats, fuse=True, example=images())[0]
    assert model.bn1.stats == stats
    assert model(images()).shape == (4, 3, 2, 2)
    assert model.bn1(images()).shape == (4, 3, 4, 4)
