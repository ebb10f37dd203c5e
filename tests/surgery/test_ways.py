"""A forward is traced on all its ways, whatever its optional arguments and the values are."""

import copy
import operator

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import batchnorm as bn
from batchnorm.surgery import fold
from batchnorm.surgery.dataflow import trace_flow
from batchnorm.surgery.own_code import own_code
from tests.surgery.folds import assert_folds, settled


def images(size=6):
    return torch.randn(2, 4, size, size, dtype=torch.float64)


def turned(x):
    return x if x.sum() > 0 else -x


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()


class Block(Parts):
    def block(self, x):
        return self.act(self.norm(self.conv(x)))


def network(forward, parts=Block):
    return settled(type("Net", (parts,), {"forward": forward})())


# Questions about values.


def test_both_answers_to_a_question_about_values_are_seen():
    def forward(self, x):
        return self.block(x if x.sum() > 0 else x[:, :, 1:])

    _, report = assert_folds(network(forward), images().abs(), -images().abs())
    assert (report.folded, report.untraced) == ({"norm": ("conv",)}, {})


@pytest.mark.parametrize("sign", [1, -1])
def test_a_convolution_used_alone_after_one_of_the_answers_is_left(sign):
    def forward(self, x):
        y = self.conv(x)
        return y if sign * x.sum() > 0 else self.act(self.norm(y))

    _, report = assert_folds(network(forward), images().abs(), -images().abs())
    assert report.folded == {}
    assert report.alone["norm"].startswith("conv also feeds an output")


def test_several_questions_are_answered_in_all_ways():
    def forward(self, x, y):
        first = x.sum() > 0
        if y.sum() > 0:
            return self.conv(x) if first else self.block(x)
        return self.block(x + 1 if first else x)

    model = network(forward)
    x, y = images().abs(), images().abs()
    pairs = [(x, y), (-x, y), (x, -y), (-x, -y)]
    assert assert_folds(model, *pairs)[1].folded == {}


def test_what_a_part_asks_is_its_own():
    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network(lambda self, x: turned(self.block(x)))

        def forward(self, x):
            return self.inner(x) * 2

    model = settled(Turned())
    assert assert_folds(model, images())[1].folded == {"inner.norm": ("inner.conv",)}
    assert list(trace_flow(model).branching) == ["inner"]


def expect_four(self, x):
    if x.ndim != 4:
        raise ValueError("expected four dimensions")
    return self.block(x)


# by exec, since pytest rewrites assertions
exec("def assert_four(self, x):\n    assert x.ndim == 4, x.shape\n    return self.block(x)")


@pytest.mark.parametrize("forward", [expect_four, globals()["assert_four"]])
def test_a_way_that_the_code_refuses_computes_nothing(forward):
    _, report = assert_folds(network(forward), images())
    assert (report.folded, report.untraced) == ({"norm": ("conv",)}, {})


def fails_by_placeholder(self, x):
    return self.block(x[:, :, operator.index(x.shape[2]) :]) if x.sum() > 0 else self.block(x)


def fails_by_placeholder_in_words(self, x):
    if x.sum() > 0:
        try:
            x = x[:, :, operator.index(x.shape[2]) :]
        except TypeError:
            raise ValueError("no number")  # noqa: B904
    return self.block(x)


def fails_in_another_function(self, x):
    return self.block(x if x.sum() > 0 else F.interpolate(x, scale_factor=[float(x.sum())] * 2))


def loops(self, x):
    while x.sum() > 1e3:
        x = x / 2
    return self.block(x)


def fails_always(self, x):
    y = self.block(x)
    if y.sum() > 0 or True:
        raise ValueError("never")


@pytest.mark.parametrize(
    ("forward", "reason"),
    [
        (fails_by_placeholder, "TypeError: "),
        (fails_by_placeholder_in_words, "ValueError: no number"),
        (fails_in_another_function, "TypeError: "),
        (loops, "TraceError: symbolically traced variables cannot be used"),
        (fails_always, "TraceError: it ends in an error whatever the values are"),
    ],
)
def test_a_way_that_ends_in_any_other_error_is_not_known(forward, reason):
    report = fold(network(forward))[1]
    assert report.alone == {"norm": "norm is called from where the flow cannot be traced"}
    assert report.untraced[""].startswith(reason)


def test_too_many_ways_are_not_followed():
    def forward(self, x):
        for place in range(7):
            x = x + 1 if x[place].sum() > 0 else x
        return self.block(x)

    assert "it asks for values on more than 32 ways" in fold(network(forward))[1].untraced[""]


def test_a_part_that_is_overwritten_is_a_use():
    def before(self, x):
        y = self.conv(x)
        y[:, 0] = 0
        return self.norm(y)

    def after(self, x):
        y = self.act(self.norm(self.conv(x)))
        y[:, 0] = x[:, 1]
        return y

    assert assert_folds(network(before), images())[1].alone == {
        "norm": "conv also feeds setitem; feeds an output"
    }
    assert assert_folds(network(after), images())[1].folded == {"norm": ("conv",)}


# Optional arguments.


def flips(self, x, flip=None):
    y = self.block(x)
    return y if flip is None else turned(y + flip)


def test_an_optional_argument_with_a_question_behind_it():
    model = network(flips)
    x = images()
    assert assert_folds(model, x, (x, x), (x, -20 * x.abs()))[1].folded == {"norm": ("conv",)}
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True)[1].fused == {"norm": "relu"}
    for given in ((x,), (x, x), (x, -20 * x.abs())):
        torch.testing.assert_close(model(*given), original(*given))


def test_the_usual_way_is_shown_where_another_cannot_be_traced():
    def forward(self, x, size=None):
        y = self.block(x)
        return y if size is None else y[:, :, operator.index(size) :]

    model = network(forward)
    flow = trace_flow(model)
    (graph,) = flow.graphs[flow.network]
    assert [str(node.target) for node in graph.nodes if node.op == "call_module"] == ["conv", "norm", "act"]
    assert list(flow.untraced) == [""]
    assert fold(model)[1].folded == {}  # the other way might use the convolution alone


def test_what_the_usual_way_shows_is_not_shown_again():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.tail = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)), network(loops)

        def forward(self, x, size=None):
            y = self.tail(self.body(x))
            return y if size is None else y[:, :, operator.index(size) :]

    flow = trace_flow(settled(Outer()))
    assert [flow.names[module] for module in flow.graphs] == [""]
    assert list(flow.untraced) == ["", "tail"]


def test_a_trace_that_depends_on_values_is_not_shown_as_what_always_happens():
    flow = trace_flow(network(lambda self, x: self.block(x) if x.sum() > 0 else self.conv(x)))
    assert flow.graphs == {}
    assert flow.untraced == {"": "goes one way or another by the values"}


# Fusion, whose steps are seen in each module's own code.


def pre_activated(self, x, skip=None):
    y = self.norm(self.conv(x))
    return y if skip is None else self.act(y) + skip


def branching(self, x):
    y = self.norm(self.conv(x))
    return y if x.sum() > 0 else self.act(y)


@pytest.mark.parametrize("forward", [pre_activated, branching])
@pytest.mark.parametrize("with_example", [False, True])
def test_an_activation_on_one_way_only_is_not_fused(forward, with_example):
    model, x = nn.Sequential(network(forward)), -images().abs()
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True, example=x if with_example else None)[1].fused == {}
    for given in (x, -x):
        torch.testing.assert_close(model(given), original(given))


def scaled(self, x, scale=None):
    y = F.relu(self.norm(self.conv(x)))
    return y if scale is None else y * scale


def test_code_that_goes_several_ways_is_not_replaced_by_one_of_them():
    model, x = network(scaled), images()
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=(x, x))
    assert report.left == {"norm": "not fused: Net goes different ways by its arguments or values"}
    torch.testing.assert_close(model(x), original(x))


def test_ways_of_the_same_length_are_not_the_same():
    def forward(self, x, mask=None):
        y = self.norm(self.conv(x))
        return F.relu(y) if mask is None else F.silu(y)

    model, x = network(forward, Parts), images()
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True, example=(x, x))[1].fused == {}
    torch.testing.assert_close(model(x), original(x))


class Adding(nn.Module):
    def forward(self, x, other=None, negative=False):
        return x if other is None else x - other if negative else x + other


def test_code_that_only_hands_its_optional_arguments_on_is_replaced():
    def forward(self, x, other=None, negative=False):
        return F.relu(self.norm(self.adding(self.conv(x), other, negative=negative)))

    model, x = network(forward, Parts), images()
    model.adding = Adding()
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True, example=x)[1].fused == {"norm": "relu"}
    for given in ((x,), (x, x), (x, x, True)):
        torch.testing.assert_close(model(*given), original(*given))


def needing(self, x=None, other=None, plain=False):
    if x is None:
        raise ValueError("x is needed")
    y = self.conv(x) if other is None else self.conv(x) + other
    return self.norm(y) if plain and other is not None else self.act(self.norm(y))


def test_arguments_that_the_code_insists_on_are_always_given():
    assert bn.convert(network(needing), fuse=True)[1].fused == {}  # for plain and other together
    code = own_code(network(needing))
    assert len(code.graphs) == 4
    assert all(any(node.target == "norm" for node in graph.nodes) for graph in code.graphs)


def test_an_argument_that_is_none_only_by_name_is_always_given():
    def forward(self, x, mask=None):
        return self.act(self.norm(self.conv(x))) * mask.to(x.dtype)

    model, x = network(forward, Parts), images()
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True)[1].fused == {"norm": "relu"}
    torch.testing.assert_close(model(x, x > 0), original(x, x > 0))


def test_a_forward_that_always_fails_has_no_code():
    def forward(self, x=None):
        raise ValueError("not yet")

    assert own_code(network(forward)) == "Net cannot be traced: it ends in an error whatever it is given"


def test_what_is_written_into_a_shortcut_part_by_part_is_noticed():
    def forward(self, x):
        shortcut = x + 1
        y = self.norm(self.conv(x))
        z = y + shortcut
        shortcut[:, 0] = 0
        return self.act(z) + shortcut

    model, x = network(forward), images()
    assert bn.convert(model, fuse=True, example=x)[1].left == {
        "norm": "not fused: its input or residual is changed before the activation"
    }
