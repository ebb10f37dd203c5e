"""Which batch norm is folded into what: by data flow, never by order or name; what is not sure is left."""

import copy
import dataclasses
import operator
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

import batchnorm as bn
from batchnorm.surgery import Folded, ScaleShift, fold
from tests.surgery.folds import Network, assert_folds, settled
from tests.surgery.networks import snapshot


def images(size=6, batch=2, channels=4):
    return torch.randn(batch, channels, size, size, dtype=torch.float64)


def pair(**modules):
    """A convolution, a batch norm, and what else is named; settled by `network`."""
    return {"conv": nn.Conv2d(4, 4, 3, padding=1), "norm": nn.BatchNorm2d(4), **modules}


def network(run, **modules):
    return settled(Network(run, **pair(**modules)))


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: net.norm(net.conv(x)) + net.conv(x),
        lambda net, x: (lambda y: net.norm(y) + y)(net.conv(x)),
        lambda net, x: (lambda y: (net.norm(y), y))(net.conv(x)),
        lambda net, x: (lambda y: net.norm(y) * y.mean())(net.conv(x)),
        lambda net, x: (lambda y: net.norm(y) * y.relu_())(net.conv(x)),
        lambda net, x: net.norm(net.conv(x) + x),
        lambda net, x: net.norm(F.conv2d(x, net.conv.weight)),
        lambda net, x: net.norm(net.conv(x)) * net.conv.weight.mean(),
    ],
    ids=["bare too", "skip", "returned", "mean", "in place", "sum", "functional", "weight read"],
)
def test_a_convolution_with_another_use_is_left_alone(run):
    folded, report = assert_folds(network(run), images(), images(size=9))
    assert (list(report.alone), report.folded) == (["norm"], {})
    assert isinstance(folded.norm, ScaleShift)


def test_a_shared_convolution_with_a_batch_norm_for_each_use_is_left_alone():
    def run(net, x):
        return net.norm(net.conv(x)) + net.other(net.conv(x.tanh()))

    _, report = assert_folds(network(run, other=nn.BatchNorm2d(4)), images())
    assert report.alone["norm"] == "conv also feeds other (BatchNorm2d); feeds add"


def test_a_pair_called_twice_is_folded_once():
    def run(net, x):
        return net.norm(net.conv(net.norm(net.conv(x))))

    assert assert_folds(network(run), images())[1].folded == {"norm": ("conv",)}


def test_a_batch_norm_shared_by_two_convolutions_goes_into_both():
    def run(net, x):
        return net.norm(net.conv(x)) + net.norm(net.other(x))

    model = network(run, other=nn.Conv2d(4, 4, 1, bias=False))
    assert assert_folds(model, images())[1].folded == {"norm": ("conv", "other")}


def test_a_batch_norm_of_which_one_use_is_elsewhere_stands_alone():
    _, report = assert_folds(network(lambda net, x: net.norm(net.conv(x)) + net.norm(x)), images())
    assert list(report.alone) == ["norm"]


def test_a_batch_norm_goes_into_all_convolutions_it_feeds_or_into_none():
    def run(net, x):
        y = net.norm(x.tanh())
        return net.conv(y) + net.other(y)

    valid = {"conv": nn.Conv2d(4, 4, 1), "other": nn.Conv2d(4, 4, 1, bias=False)}
    assert assert_folds(network(run, **valid), images())[1].folded == {"norm": ("conv", "other")}
    valid["other"] = nn.Conv2d(4, 4, 3, padding=1)
    assert assert_folds(network(run, **valid), images())[1].folded == {}


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: net.conv(net.norm(x.tanh())) + net.conv(x),
        lambda net, x: net.conv(net.norm(x.tanh())) + net.conv(net.norm(x.tanh()).transpose(2, 3)),
        lambda net, x: (lambda y: net.conv(y) + y)(net.norm(x.tanh())),
        lambda net, x: net.conv(net.norm(x.tanh()).relu()),
    ],
    ids=["other input", "moved input", "other use", "activation"],
)
def test_what_follows_must_see_only_the_batch_norm(run):
    model = network(run, conv=nn.Conv2d(4, 4, 1))
    assert list(assert_folds(model, images())[1].alone) == ["norm"]


@pytest.mark.parametrize(
    "change",
    [
        lambda net, y: net.act(y),
        lambda net, y: y.__iadd__(1),
        lambda net, y: y.mul_(2),
        lambda net, y: F.relu(y, inplace=True),
        lambda net, y: y[0].zero_(),
    ],
)
def test_an_input_that_changes_before_what_follows_is_not_handed_on(change):
    def run(net, x):
        y = x.tanh()
        z = net.norm(y)
        change(net, y)
        return net.conv(z)

    model = network(run, conv=nn.Conv2d(4, 4, 1), act=nn.ReLU(inplace=True))
    assert list(assert_folds(model, images())[1].alone) == ["norm"]


def test_what_follows_may_come_after_what_changes_nothing():
    def run(net, x):
        y = net.norm(x.tanh())
        sizes = y.shape
        first, second = net.conv(y), net.other(net.same(y))
        return first.view(sizes) + second

    valid = {"conv": nn.Conv2d(4, 4, 1), "other": nn.Conv2d(4, 4, 1, bias=False), "same": nn.Identity()}
    assert assert_folds(network(run, **valid), images())[1].folded == {"norm": ("conv", "other")}


def test_asking_for_the_shape_or_dtype_is_no_use():
    def run(net, x):
        y = net.conv(x.to(net.conv.weight.dtype))
        batch, channels = y.shape[0], y.size(1)
        return net.norm(y).reshape(batch, channels, -1).view_as(y)

    assert assert_folds(network(run), images(), images(size=9))[1].folded == {"norm": ("conv",)}


def test_identities_between_are_passed():
    model = settled(nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity(), nn.Sequential(), nn.BatchNorm2d(4)))
    assert assert_folds(model, images())[1].folded == {"3": ("0",)}


@pytest.mark.parametrize("kind", [nn.Dropout, nn.Dropout2d, nn.AlphaDropout])
def test_dropout_that_is_idle_in_prediction_is_passed(kind):
    model = settled(nn.Sequential(nn.Conv2d(4, 4, 1), kind(0.5), nn.BatchNorm2d(4)))
    assert assert_folds(model, images())[1].folded == {"2": ("0",)}
    model[1].train()  # kept active, to sample predictions
    assert fold(model)[1].alone == {"2": f"follows 1 ({kind.__name__}); feeds an output"}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("by_name", [False, True])
def test_dropout_as_a_function_is_passed_if_it_is_idle(training, by_name):
    def run(net, x):
        y = net.conv(x)
        dropped = F.dropout(y, 0.5, training=training) if by_name else F.dropout(y, 0.5, training)
        return net.norm(dropped)

    report = fold(network(run))[1]
    assert report.folded == ({} if training else {"norm": ("conv",)})


def test_dropout_of_a_class_of_its_own_is_not_passed():
    class Doubled(nn.Dropout):
        def forward(self, x):
            return 2 * x

    model = settled(nn.Sequential(nn.Conv2d(4, 4, 1), Doubled(), nn.BatchNorm2d(4)))
    assert assert_folds(model, images())[1].folded == {}


# Our layers, called with a residual.


@pytest.mark.parametrize("activation", [None, "relu"])
def test_a_second_batch_norm_is_not_folded_across_an_activation_or_a_residual(activation):
    def run(net, x):
        return net.other(net.norm(net.conv(x), residual=x if activation is None else None))

    norm = bn.BatchNorm2d(4, activation=activation)
    _, report = assert_folds(network(run, norm=norm, other=nn.BatchNorm2d(4)), images())
    assert (list(report.folded), list(report.alone)) == (["norm"], ["other"])


def test_our_layer_is_not_folded_into_what_follows_its_averages():
    model = settled(nn.Sequential(nn.Tanh(), bn.BatchNorm2d(4, avg_pool=2), nn.Conv2d(4, 4, 1)))
    folded, report = assert_folds(model, images(), images(size=7))
    assert "adds, activates or averages before what follows" in report.alone["1"]
    assert isinstance(folded[1], ScaleShift)


@pytest.mark.parametrize("activation", [None, "relu"])
def test_our_layer_keeps_its_averages(activation):
    norm = bn.BatchNorm2d(4, activation=activation, avg_pool=3)
    model = network(lambda net, x: net.norm(net.conv(x), residual=x), norm=norm)
    folded, report = assert_folds(model, images(), images(size=7))
    assert report.folded == {"norm": ("conv",)}
    assert folded(images()).shape == norm(images()).shape


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("by_name", [True, False])
def test_our_layer_keeps_its_residual_and_activation(activation, by_name):
    def run(net, x):
        y = net.conv(x)
        return net.norm(y, residual=x) if by_name else net.norm(y, x)

    model = network(run, norm=bn.BatchNorm2d(4, activation=activation))
    folded, report = assert_folds(model, images(), images(size=3))
    assert report.folded == {"norm": ("conv",)}
    assert isinstance(folded.norm, Folded)


def test_our_layer_alone_keeps_its_residual_and_activation():
    model = network(lambda net, x: net.norm(x.tanh(), x), norm=bn.BatchNorm2d(4, activation="relu"))
    folded, _ = assert_folds(model, images())
    assert isinstance(folded.norm, ScaleShift)


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: (lambda y: net.norm(y, residual=y))(net.conv(x)),
        lambda net, x: net.norm(x.tanh(), residual=net.conv(x)),
        lambda net, x: net.conv(net.norm(x.tanh(), residual=x)),
    ],
    ids=["both", "only residual", "before the next"],
)
def test_a_residual_is_not_normalized(run):
    norm, conv = bn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)
    assert list(assert_folds(network(run, norm=norm, conv=conv), images())[1].alone) == ["norm"]


def test_our_networks_fold_whole():
    from batchnorm.models import build

    for name in ("lenet", "resnet20"):
        model = settled(build(name, norm="batch", seed=0))
        _, report = assert_folds(model, torch.randn(3, 1, 28, 28, dtype=torch.float64))
        assert not report.alone
        assert not report.kept


@pytest.mark.parametrize(
    "stats", [bn.stats.Ghost(2), bn.stats.Renorm(), bn.stats.Frozen(), bn.stats.Synced()]
)
def test_kinds_of_statistics_that_predict_alike_fold(stats):
    model = network(FOLLOWED, norm=bn.BatchNorm2d(4, stats=stats))
    model.norm.train(isinstance(stats, bn.stats.Frozen))  # constants in training mode too
    assert assert_folds(model, images())[1].folded == {"norm": ("conv",)}


def test_statistics_by_domain_are_kept():
    def run(net, x):
        return net.norm(net.conv(x), domain=1)

    _, report = assert_folds(network(run, norm=bn.BatchNorm2d(4, stats=bn.stats.Domains(3))), images())
    assert report.kept == {"norm": "keeps statistics of shape (3, 4), not one per channel"}


@pytest.mark.parametrize("shape", [(3, 4), (3, 6, 4), (3, 6, 5, 4)])
def test_channels_last_meet_those_of_linear_at_any_rank(shape):
    kind = bn.BatchNorm2d if len(shape) == 4 else bn.BatchNorm1d
    x = torch.randn(shape, dtype=torch.float64)
    first = settled(nn.Sequential(nn.Linear(4, 5), kind(5, channel_dim=-1)))
    last = settled(nn.Sequential(kind(4, channel_dim=-1), nn.Linear(4, 5)))
    alone = settled(nn.Sequential(nn.ReLU(), kind(4, channel_dim=-1)))
    assert assert_folds(first, x)[1].folded == {"1": ("0",)}
    assert assert_folds(last, x)[1].folded == {"0": ("1",)}
    assert list(assert_folds(alone, x)[1].alone) == ["1"]


def test_channels_last_are_not_those_of_a_convolution():
    model = settled(nn.Sequential(nn.Conv2d(4, 6, 1), bn.BatchNorm2d(6, channel_dim=-1)))
    assert list(assert_folds(model, images())[1].alone) == ["1"]


# What is kept, and why.


class Foreign(nn.BatchNorm2d):
    def forward(self, input):
        return super().forward(input).relu()


def hooked(module):
    module.register_forward_hook(lambda module, args, output: output + 1)
    return module


@pytest.mark.parametrize(
    ("norm", "why"),
    [
        (lambda: nn.BatchNorm2d(4, track_running_stats=False), "keeps no running statistics"),
        (lambda: Foreign(4), "Foreign has a forward of its own"),
        (lambda: hooked(nn.BatchNorm2d(4)), "has hooks"),
        (lambda: parametrizations.weight_norm(nn.BatchNorm2d(4), dim=None), "is parametrized"),
    ],
)
def test_a_layer_that_is_no_constant_is_kept(norm, why):
    _, report = assert_folds(settled(nn.Sequential(nn.Conv2d(4, 4, 1), norm())), images())
    assert (report.kept, report.folded, report.alone) == ({"1": why}, {}, {})


def test_a_layer_in_training_mode_is_kept():
    model = settled(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[1].train()
    assert fold(model)[1].kept == {"1": "in training mode: it normalizes with the batch"}


def test_statistics_of_another_shape_are_kept():
    model = settled(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    model[1].running_mean = torch.zeros(3, 4)
    model[1].running_var = torch.ones(3, 4)
    assert fold(model)[1].kept == {"1": "keeps statistics of shape (3, 4), not one per channel"}


def test_functions_layers_that_are_read_and_layers_that_do_not_run_are_kept():
    def run(net, x):
        y = net.conv(x)
        return F.batch_norm(y, net.norm.running_mean, net.norm.running_var) + net.other(x)

    _, report = assert_folds(network(run, other=nn.Conv2d(4, 4, 1), unused=nn.BatchNorm2d(4)), images())
    assert report.kept == {
        "norm": "not called in prediction",
        "unused": "not called in prediction",
        "batch_norm": "a function, not a layer",
    }
    read = network(lambda net, x: net.norm(net.conv(x)) * net.norm.running_mean.mean())
    assert assert_folds(read, images())[1].kept == {"norm": "its tensors are used elsewhere"}


def test_a_layer_called_with_other_arguments_is_kept():
    class Masked(bn.BatchNorm2d):
        forward = bn.BatchNorm2d.forward

    model = network(lambda net, x: net.norm(net.conv(x), mask=None), norm=Masked(4))
    assert fold(model)[1].kept == {"norm": "called with other arguments than input and residual"}


# Frozen classes of other libraries, in their two styles: eps an attribute, or a number in the code.


class Frozen(nn.Module):
    def __init__(self, channels, eps=None):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.ones(channels))
        if eps is not None:
            self.eps = eps

    def forward(self, x):
        scale = self.weight * (self.running_var + getattr(self, "eps", 1e-5)).rsqrt()
        return x * scale[:, None, None] + (self.bias - self.running_mean * scale)[:, None, None]


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_frozen_classes_of_other_libraries_fold(eps):
    assert assert_folds(network(FOLLOWED, norm=Frozen(4, eps)), images())[1].folded == {"norm": ("conv",)}


def expects_eight(y):
    if len(y) != 8:
        raise ValueError("eight samples")
    return y


@pytest.mark.parametrize("more", [torch.relu, lambda y: y[None], lambda y: (y, y), expects_eight])
def test_a_class_that_only_looks_frozen_is_kept(more):
    class Other(Frozen):
        def forward(self, x):
            return more(super().forward(x))

    report = fold(network(FOLLOWED, norm=Other(4)))[1]
    assert report.kept == {"norm": "Other has a forward of its own"}


def FOLLOWED(net, x):  # noqa: N802
    return net.norm(net.conv(x))


# Layers that cannot take anything in: the batch norm then stands alone.


def pruned(convolution):
    prune.l1_unstructured(convolution, "weight", 0.5)
    return convolution


class Standardized(nn.Conv2d):
    def forward(self, x):
        return F.conv2d(x, self.weight / self.weight.std(), self.bias, padding=1)


class Subclass(nn.Conv2d):
    pass


class Halved(nn.Conv2d):
    def _conv_forward(self, input, weight, bias):
        return super()._conv_forward(input, weight / 2, bias)


@pytest.mark.parametrize(
    ("conv", "why"),
    [
        (lambda conv: hooked(conv), "conv, which has hooks"),
        (lambda conv: pruned(conv), "conv, which has hooks"),
        (lambda conv: parametrizations.weight_norm(conv), "conv, which is parametrized"),
        (lambda conv: Standardized(4, 4, 3, padding=1), "conv2d"),
        (lambda conv: Halved(4, 4, 3, padding=1), "conv2d"),
        (lambda conv: Subclass(4, 4, 3, padding=1), None),
        (lambda conv: nn.LazyConv2d(4, 3, padding=1), None),
    ],
)
def test_convolutions_that_are_not_only_their_weight(conv, why):
    model = Network(FOLLOWED, conv=conv(nn.Conv2d(4, 4, 3, padding=1)), norm=nn.BatchNorm2d(4)).double()
    model(images())
    _, report = assert_folds(settled(model), images())
    assert report.alone == ({} if why is None else {"norm": f"follows {why}; feeds an output"})


def test_tied_weights_stay_tied():
    def run(net, x):
        return net.norm(net.conv(x)) + net.other(x)

    model = network(run, other=nn.Conv2d(4, 4, 3, padding=1))
    model.other.weight = model.conv.weight
    folded, report = assert_folds(model, images())
    assert report.alone["norm"].startswith("follows conv, which shares its weight with another layer")
    assert folded.other.weight is folded.conv.weight


def test_a_hook_on_the_module_between_sees_what_it_saw():
    seen = []
    model = settled(nn.Sequential(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1)),
                                  nn.BatchNorm2d(4)))  # fmt: skip
    model[0].register_forward_hook(lambda module, args, output: seen.append(output.sum().item()))
    x = images()
    model(x)
    folded, report = fold(model)
    assert len(seen) == 1  # tracing ran no hook
    folded(x)
    assert report.folded == {"0.1": ("0.0",)}
    assert list(report.alone) == ["1"]
    assert seen[1] == pytest.approx(seen[0], rel=1e-12)


# Linear: the channels are the last axis, those of BatchNorm1d axis 1.


def test_a_batch_norm_over_the_steps_of_a_sequence_is_not_that_of_the_features():
    model = settled(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5)))
    steps = torch.randn(3, 5, 4, dtype=torch.float64)
    folded, report = assert_folds(model, steps, example=steps)
    assert report.alone == {"1": "its channels are not those of 0; feeds an output"}
    folded, report = fold(model)
    assert report.folded == {"1": ("0",)}
    with pytest.raises(ValueError, match=r"fold: input expected 2 dimensions, .*, got 3"):
        folded(steps)


def test_linear_of_another_width_than_the_batch_norm():
    model = settled(nn.Sequential(nn.Linear(4, 7), nn.BatchNorm1d(5)))
    assert list(assert_folds(model, torch.randn(3, 5, 4).double())[1].alone) == ["1"]


@pytest.mark.parametrize(
    ("moved", "norm"),
    [
        (lambda net, y: net.norm(y.transpose(1, 2)), nn.BatchNorm1d),
        (lambda net, y: net.norm(torch.transpose(y, 2, 1)), nn.BatchNorm1d),
        (lambda net, y: net.norm(y.permute(0, 2, 1)), nn.BatchNorm1d),
        (lambda net, y: net.norm(y.flatten(0, 1)).reshape_as(y), nn.BatchNorm1d),
        (lambda net, y: net.norm(y[:, :, None].permute(0, 3, 1, 2)), nn.BatchNorm2d),
    ],
)
def test_channels_are_followed_where_axes_are_moved(moved, norm):
    model = settled(Network(lambda net, x: moved(net, net.linear(x)), linear=nn.Linear(4, 5), norm=norm(5)))
    steps = torch.randn(3, 5, 4, dtype=torch.float64)
    _, report = assert_folds(model, steps, steps[:, :2], example=steps)
    assert ("norm" in report.folded) == (norm is nn.BatchNorm1d)  # indexing is no move of axes


def test_moved_axes_come_out_contiguous_as_from_a_batch_norm():
    def run(net, x):
        return net.norm(net.linear(x).transpose(1, 2)).view(3, -1)

    model = settled(Network(run, linear=nn.Linear(4, 5), norm=nn.BatchNorm1d(5)))
    assert assert_folds(model, torch.randn(3, 6, 4).double())[1].folded == {"norm": ("linear",)}


# Tracing, and what to do where it fails.


class Branching(nn.Module):
    """A forward that cannot be traced, around parts that can."""

    def __init__(self, *parts, inside=None):
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.inside = inside

    def forward(self, x):
        if operator.index(x.shape[-1]) % 2 == 0:
            x = x + 1
        for part in self.parts:
            x = part(x)
        return x if self.inside is None else self.inside(self, x)


def block():
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())


def test_one_untraceable_part_does_not_spoil_the_rest():
    model = settled(nn.Sequential(block(), Branching(block(), block()), block()))
    _, report = assert_folds(model, images(), images(size=7))
    assert list(report.folded) == ["0.1", "1.parts.0.1", "1.parts.1.1", "2.1"]
    assert list(report.untraced) == ["1"]


def test_the_flow_goes_through_a_slice_that_the_forward_makes():
    def run(net, x):
        return net.body[2:](net.body[:2](x))

    model = settled(Network(run, body=nn.Sequential(*block(), *block())))
    assert list(assert_folds(model, images())[1].folded) == ["body.1", "body.4"]


def test_a_forward_that_makes_layers_of_its_own_cannot_be_traced():
    own = nn.Linear(9, 9).double()

    def run(net, x):
        return nn.Sequential(own)(net.body(x))

    model = settled(Network(run, body=block()))
    _, report = assert_folds(model, images(size=9))
    assert list(report.folded) == ["body.1"]
    assert list(report.untraced) == [""]


def test_layers_called_by_an_untraceable_forward_stand_alone():
    model = settled(Branching(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    folded, report = assert_folds(model, images(), images(size=7))
    assert report.alone == {"parts.1": "parts.1 is called from where the flow cannot be traced"}
    assert isinstance(folded.parts[1], ScaleShift)


@pytest.mark.parametrize(
    "run",
    [
        lambda net, x: net.norm(net.conv(x.to(net.norm.weight.dtype))),
        lambda net, x: net.norm(net.conv(x)).view(net.norm.running_mean.shape[0], -1),
        lambda net, x: net.norm(net.conv(x)) if net.norm.bias is not None else x,
    ],
    ids=["dtype", "shape", "there"],
)
def test_a_batch_norm_whose_tensors_are_asked_for_anything_is_kept(run):
    _, report = assert_folds(network(run), images())
    assert report.kept == {"norm": "its tensors are used elsewhere"}


def test_what_stands_in_for_a_batch_norm_still_says_how_many_channels_it_has():
    def run(net, x):
        return net.norm(net.conv(x)).view(-1, net.norm.num_features)

    assert assert_folds(network(run), images())[1].folded == {"norm": ("conv",)}


def test_a_batch_norm_is_kept_where_code_that_is_not_traced_may_read_its_tensors():
    class Reading(Branching):
        def forward(self, x):
            return self._rest(super().forward(x))

        def _rest(self, x):
            return x.to(self.parts[1].weight.dtype)

        def reset(self):
            self.parts[1].running_var.fill_(1)

    model = settled(Reading(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)))
    _, report = assert_folds(model, images())
    assert report.kept == {"parts.1": "Reading, whose code is not traced, may read its tensors"}


def test_batch_norms_of_torchs_own_layers_are_kept():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer.norm1, layer.norm2 = (bn.BatchNorm1d(8, channel_dim=-1) for _ in range(2))
    steps = torch.randn(2, 5, 8, dtype=torch.float64)
    _, report = assert_folds(settled(layer), steps, example=steps)
    why = "TransformerEncoderLayer, whose code is not traced, may read its tensors"
    assert report.kept == {"norm1": why, "norm2": why}


def test_scripted_parts_stay_and_what_is_around_them_folds():
    part = torch.jit.script(settled(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))))
    model = settled(nn.Sequential(part, *block()))
    x = images()
    expected = model(x)
    folded, report = fold(model, x)
    torch.testing.assert_close(folded(x), expected)
    assert report.folded == {"2": ("1",)}
    assert report.kept == {"0.1": "scripted"}


def test_layers_called_with_objects_or_by_another_name_are_no_obstacle():
    class Frozen(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("weight", "bias", "running_mean", "running_var"):
                self.register_buffer(name, torch.rand(4) + 0.5)

        def forward(self, x):
            scale = (self.weight / (self.running_var + 1e-5).sqrt())[:, None, None]
            return (x - self.running_mean[:, None, None]) * scale + self.bias[:, None, None]

    class Boxed(nn.BatchNorm2d):
        def forward(self, box):
            return [super().forward(box[0])]

    x = images()
    model = network(lambda net, x: net.norm(x=net.conv(x)), norm=Frozen())
    assert list(assert_folds(model, x, example=x)[1].kept) == ["norm"]
    model = network(lambda net, x: net.boxed([net.norm(net.conv(x))])[0], boxed=Boxed(4))
    _, report = assert_folds(model, x, example=x)
    assert report.folded == {"norm": ("conv",)}
    assert report.kept == {"boxed": "Boxed has a forward of its own"}


def test_a_model_that_writes_into_its_input_is_measured_on_the_same_example():
    model, x = network(lambda net, x: net.norm(net.conv(x.mul_(2).sub_(1)))), images()
    before = x.clone()
    assert fold(model, x)[1].difference < 1e-13
    assert torch.equal(x, before)


def test_a_model_that_fails_only_when_folded_is_refused_in_one_line():
    model = network(lambda net, x: net.norm(net.conv(x)) + len(net.norm._parameters["weight"]))
    before = snapshot(model)
    refused(model, "to run on the example when folded, got KeyError: 'weight'", example=images())
    assert snapshot(model) == before


def test_outputs_without_a_finite_number_prove_nothing():
    model = network(lambda net, x: (net.norm(net.conv(x)) * torch.nan, x.new_zeros(0)))
    refused(model, "to return finite numbers, got only NaN or infinite ones", example=images())
    assert fold(model, images(), tolerance=float("inf"))[1].difference == 0
    assert fold(network(lambda net, x: net.norm(net.conv(x))[:0]), images())[1].difference == 0


def test_what_tracing_cannot_see_the_example_does():
    model = settled(Branching(block(), inside=lambda net, x: x + net.parts[0][0](x)))
    before = snapshot(model)
    for inplace in (False, True):
        with pytest.raises(ValueError, match=r"fold: difference expected at most 1e-10 .*, got \d"):
            fold(model, images(), inplace=inplace)
        assert snapshot(model) == before


def test_an_argument_that_may_be_none_is_traced_both_ways():
    class Optional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x, scale=None):
            y = self.conv(x)
            return self.norm(y) + y if scale is None else self.norm(y) * scale

    x = images()
    assert list(assert_folds(settled(Optional()), x, (x, torch.tensor(2.0)))[1].alone) == ["norm"]


def test_arguments_that_may_be_none_and_switches_are_traced_beside_each_other():
    class Switched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
            self.other, self.last = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x, scale=None, shift=None, *, skip=False, plain=True):
            y = self.conv(x)
            z = self.norm(y)
            if scale is not None and shift is None:
                z = z * scale + y
            y = self.other(z)
            z = self.last(y)
            return z + y if skip and plain else z

    model, x = settled(Switched()), images()
    calls = [x, (x, x), {"x": x, "skip": True}, {"x": x, "skip": True, "plain": False}]
    _, report = assert_folds(model, *calls)
    assert report.alone == {
        "norm": "conv also feeds add; feeds mul",
        "last": "other also feeds add; feeds an output",
    }


def test_wrapped_models_fold():
    model = settled(nn.DataParallel(block()))
    assert fold(model)[1].folded == {"module.1": ("module.0",)}


def test_tracing_leaves_no_trace():
    class Remembering(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.seen = block(), []

        def forward(self, x):
            self.seen.append(x)
            self.last = x
            return self.block(x)

    model = settled(Remembering())
    state = torch.random.get_rng_state()
    folded, _ = fold(model)
    assert (model.seen, folded.seen, hasattr(folded, "last")) == ([], [], False)
    assert torch.equal(torch.random.get_rng_state(), state)


# The model that comes back.


def keep_attribute(model, made):
    model.seen = made


def keep_buffer(model, made):
    model.register_buffer("seen", made)


@pytest.mark.parametrize("keep", [keep_attribute, keep_buffer])
@pytest.mark.parametrize("example", [None, images()])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_model_that_keeps_tensors_of_a_graph_folds(keep, example, inplace):
    model, x = network(lambda net, x: net.norm(net.conv(x))), images()
    expected, made = model(x), model.conv(x)
    keep(model, made)
    before = snapshot(model)
    folded, report = fold(model, example, inplace=inplace)
    assert report.folded == {"norm": ("conv",)}
    torch.testing.assert_close(folded(x), expected)
    assert torch.equal(folded.seen, made)
    assert model.seen is made
    assert made.requires_grad
    assert inplace or snapshot(model) == before


def test_a_model_that_keeps_what_it_computed_folds():
    def run(net, x):
        net.seen = net.conv(x)
        return net.norm(net.seen)

    model, x = network(run), images()
    expected = model(x)
    torch.testing.assert_close(fold(model)[0](x), expected)


def test_modules_referred_to_from_elsewhere_fold_too():
    class Listing(nn.Module):
        def __init__(self):
            super().__init__()
            self.block = block()
            self.order = [self.block[0], self.block[1]]

        def forward(self, x):
            for part in self.order:
                x = part(x)
            return x

    assert assert_folds(settled(Listing()), images())[1].folded == {"block.1": ("block.0",)}


def test_a_batch_norm_by_itself_becomes_a_scale_and_shift():
    norm = settled(nn.BatchNorm2d(4))
    folded, report = assert_folds(norm, images())
    assert isinstance(folded, ScaleShift)
    assert list(report.alone) == [""]


def test_inplace_changes_the_model_and_a_failure_changes_nothing():
    model = settled(nn.Sequential(block(), nn.Conv2d(4, 4, 1)), dtype=torch.float32)
    x, before = images().float(), snapshot(model)
    with pytest.raises(ValueError, match=r"fold: difference expected at most 0 of the largest output, got "):
        fold(model, x, inplace=True, tolerance=0)
    assert snapshot(model) == before
    assert type(model[0][1]) is nn.BatchNorm2d
    expected = model(x)
    folded, report = fold(model, x, inplace=True)
    assert folded is model
    assert type(model[0][1]) is nn.Identity
    assert 0 < report.difference < 1e-5
    torch.testing.assert_close(model(x), expected)


def test_other_modules_keep_their_names_and_the_result_copies_pickles_scripts_and_folds_again():
    model = settled(nn.Sequential(block(), nn.Linear(6, 5), nn.BatchNorm2d(4), nn.ReLU()))
    folded, _ = fold(model)
    kept = [key for key in model.state_dict() if not key.startswith(("0.1.", "2."))]
    assert list(folded.state_dict()) == [*kept, "2.weight", "2.bias"]
    x = images()
    for copied in (
        copy.deepcopy(folded),
        pickle.loads(pickle.dumps(folded)),
        torch.jit.script(folded),
        torch.fx.symbolic_trace(folded),
        fold(folded)[0],
    ):
        assert torch.equal(copied(x), folded(x))


def test_a_folded_linear_with_its_guard_scripts_and_traces():
    folded, _ = fold(settled(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))))
    x = torch.randn(3, 4, dtype=torch.float64)
    for other in (torch.jit.script(folded), torch.fx.symbolic_trace(folded)):
        assert torch.equal(other(x), folded(x))


def test_examples_are_tensors_tuples_or_dicts_and_outputs_may_be_nested():
    @dataclasses.dataclass
    class Output:
        value: torch.Tensor

    model, x = network(lambda net, x: {"a": [net.norm(net.conv(x)), (Output(x),)], "b": None}), images()
    for example in (x, (x,), {"x": x}):
        assert fold(model, example)[1].difference < 1e-13
    wrong = network(
        lambda net, x: [Output(net.norm(net.conv(x)))] * (2 - isinstance(net.norm, nn.BatchNorm2d))
    )
    refused(wrong, "fold: model expected 1 outputs, got 2", example=x)


def test_complex_outputs_are_compared_in_both_parts():
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.turn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), 1

        def forward(self, x):
            y = self.norm(self.conv(x))
            # a fault that only the imaginary part shows
            return torch.complex(y, y if isinstance(self.norm, nn.BatchNorm2d) else y * self.turn).conj()

    model = settled(Turning())
    assert fold(model, images())[1].difference < 1e-13
    model.turn = 2
    refused(model, "fold: difference expected at most 1e-10 of the largest output", example=images())


# Refusals.


def refused(model, words, **options):
    words = words if words.startswith("fold: ") else f"fold: model expected {words}"
    with pytest.raises(ValueError, match=words):
        fold(model, **options)


def test_models_that_cannot_be_folded_are_refused():
    refused(nn.Sequential(nn.BatchNorm1d(2)), "in prediction mode, got training mode")
    refused(
        nn.Sequential(nn.LazyLinear(2)).eval(), r"fold: model expected initialized parameters, got lazy 0"
    )
    refused(block().to("meta").eval(), "tensors with values, got 0.weight on device meta")
    refused(torch.jit.script(block().eval()), "before scripting, got a ScriptModule")
    refused(block().eval(), "fold: tolerance expected a number >= 0, got -1", tolerance=-1)
    model = block().eval()
    model.lock = threading.Lock()
    for inplace in (False, True):
        refused(model, "one that can be copied, got TypeError: cannot pickle .*lock", inplace=inplace)
    with pytest.raises(TypeError, match=r"fold: model expected a torch.nn.Module, got int"):
        fold(3)
    model = network(lambda net, x: None)
    refused(model, "to return tensors, got NoneType", example=images())


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "running_mean",
            float("nan"),
            "running statistics of 1 expected finite numbers, got NaN or infinity",
        ),
        ("running_var", float("inf"), "running statistics of 1 expected finite numbers, got NaN or infinity"),
        ("eps", 0.0, r"running_var \+ eps of 1 expected numbers > 0, got 0"),
        ("running_var", -1e-9, "running_var of 1 expected numbers >= 0, got -1e-09"),
        ("weight", float("nan"), "weight and bias of 1 expected finite numbers, got NaN or infinity"),
    ],
)
def test_broken_statistics_are_refused(name, value, words):
    model = settled(block())
    with torch.no_grad():
        if name == "eps":
            model[1].eps = value
            name, value = "running_var", 0.0
        getattr(model[1], name)[2] = value
    before = snapshot(model)
    refused(model, f"fold: {words}", inplace=True)
    assert snapshot(model) == before
