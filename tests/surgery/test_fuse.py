import copy
import functools
import itertools
import operator
import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import batchnorm as bn
from batchnorm.surgery.own_code import own_code
from tests.surgery.test_convert import bits, fingerprint, spoiled

ACTIVATIONS = {
    "relu": (nn.ReLU(inplace=True), nn.ReLU(), F.relu, torch.relu, torch.relu_, lambda x: x.relu_(),
             lambda x: F.relu(x, inplace=True)),
    "leaky_relu": (nn.LeakyReLU(), nn.LeakyReLU(0.01, inplace=True), F.leaky_relu,
                   lambda x: F.leaky_relu(x, 0.01, True)),
    "relu6": (nn.ReLU6(inplace=True), F.relu6),
    "sigmoid": (nn.Sigmoid(), torch.sigmoid, F.sigmoid, lambda x: x.sigmoid_()),
    "tanh": (nn.Tanh(), torch.tanh, F.tanh, lambda x: x.tanh()),
    "silu": (nn.SiLU(), F.silu, lambda x: F.silu(x, inplace=True)),
    "gelu": (nn.GELU(), F.gelu, lambda x: F.gelu(x, approximate="none")),
    "hardswish": (nn.Hardswish(inplace=True), F.hardswish),
}  # fmt: skip
CASES = [(name, act) for name, acts in ACTIVATIONS.items() for act in acts]

# Additions of a residual r to the output y of batch norm.
ADDITIONS = {
    "y + r": lambda y, r: y + r,
    "r + y": lambda y, r: r + y,
    "y += r": operator.iadd,
    "add": lambda y, r: torch.add(y, r),
    "add_": lambda y, r: y.add_(r),
}


@pytest.fixture(autouse=True)
def doubles():
    """So that a wrong fusion stands out from the rounding of the kernels."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


class Block(nn.Module):
    """Batch norm, perhaps an addition, an activation."""

    def __init__(self, act=None, add=None):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.bn = spoiled(nn.BatchNorm2d(3))
        self.act = act or nn.ReLU()
        self.add = add or operator.add

    def forward(self, x):
        return self.act(self.add(self.bn(self.conv(x)), x))


class Bare(Block):
    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Basic(nn.Module):
    """The block of a residual network: one activation module for two places."""

    def __init__(self, downsample=False):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), spoiled(nn.BatchNorm2d(3), 1)
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), spoiled(nn.BatchNorm2d(3), 2)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = (
            nn.Sequential(nn.Conv2d(3, 3, 1), spoiled(nn.BatchNorm2d(3), 3)) if downsample else None
        )

    def forward(self, x):
        identity = x
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.downsample is not None:
            identity = self.downsample(x)
        out += identity
        return self.relu(out)


def images(seed=0):
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(seed))


def assert_same_function(model, original, input=None):
    """Outputs, gradients and statistics, in both modes, of two models that hold equal numbers."""
    model, original = copy.deepcopy(model), copy.deepcopy(original)
    for training in (False, True):
        results = []
        for each in (model, original):
            x = (images(5) if input is None else input.clone()).requires_grad_()
            each.train(training).zero_grad()
            out = each(x * 1)
            out.sin().sum().backward()
            results.append((out, x.grad, [p.grad for p in each.parameters()], each.state_dict()))
        torch.testing.assert_close(results[0], results[1])


@pytest.mark.parametrize("place", range(len(CASES)))
@pytest.mark.parametrize("cls", [Bare, Block])
def test_every_activation_in_every_form_is_fused_with_and_without_addition(cls, place):
    name, act = CASES[place]
    model = nn.Sequential(nn.Conv2d(3, 3, 1), cls(act=act))
    original = copy.deepcopy(model)
    before = fingerprint(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"1.bn": name if cls is Bare else f"add, {name}"}
    assert report.left == {}
    assert model[1].bn.activation == name
    assert_same_function(model, original)
    assert type(model[1]).__name__ == cls.__name__
    assert isinstance(model[1], cls)
    _, report = bn.revert(model)
    assert report.fused == {"1.bn": name}
    assert fingerprint(model) == before


@pytest.mark.parametrize("form", ADDITIONS)
def test_every_form_of_addition_is_fused(form):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Block(add=ADDITIONS[form]))
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"1.bn": "add, relu"}
    assert_same_function(model, original)


@pytest.mark.parametrize(
    "act",
    [nn.LeakyReLU(0.2), nn.GELU("tanh"), nn.ELU(), lambda x: F.leaky_relu(x, 0.2), F.softplus, nn.Identity(),
     lambda x: F.gelu(x, approximate="tanh"), lambda x: F.relu(x) + x],
)  # fmt: skip
@pytest.mark.parametrize("cls", [Bare, Block])
def test_what_a_layer_cannot_apply_is_left(cls, act):
    model = cls(act=act)
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.converted == ("bn",)
    assert report.fused == {}
    assert list(report.left) == ["bn"]
    assert report.left["bn"].startswith("not fused: ")
    assert "the example" not in report.left["bn"]  # it is known without trying
    assert type(model) is cls
    assert_same_function(model, original)


@pytest.mark.parametrize(
    ("act", "what"),
    [
        (nn.PReLU(), "PReLU"),
        (nn.LeakyReLU(0.2), "LeakyReLU(negative_slope=0.2)"),
        (F.elu, "elu"),
        (lambda x: F.leaky_relu(x, 0.2), "leaky_relu with other options"),
        (lambda x: x.relu() + x, None),
    ],
)
def test_an_activation_that_no_layer_can_apply_is_named(act, what):
    for cls, words in ((Bare, "{} follows, which no layer can apply"),
                       (Block, "after the addition follows {}, which no layer can apply")):  # fmt: skip
        _, report = bn.convert(cls(act=act), fuse=True, example=images())
        if what is not None:
            assert report.left == {"bn": f"not fused: {words.format(what)}"}
        else:
            assert "uses" in report.left["bn"]


class OwnSiLU(nn.Module):
    """As transformers writes it."""

    def forward(self, input):
        return F.silu(input)


class OwnGELU(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = F.gelu

    def forward(self, input):
        return self.act(input)


class Holder(nn.Module):
    def __init__(self, act=None):
        super().__init__()
        self.act = nn.ReLU(inplace=True) if act is None else act

    def forward(self, x):
        return self.act(x)


@pytest.mark.parametrize("with_example", [False, True])
@pytest.mark.parametrize(("act", "name"), [(OwnSiLU, "silu"), (OwnGELU, "gelu"), (Holder, "relu")])
def test_a_class_whose_forward_is_one_activation_is_that_activation(act, name, with_example):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Bare(act=act()))
    original, before = copy.deepcopy(model), fingerprint(model)
    _, report = bn.convert(model, fuse=True, example=images() if with_example else None)
    assert report.fused == {"1.bn": name}
    assert repr(model[1].act).startswith("Absorbed")
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model) == before


def test_an_activation_class_is_traced_as_often_for_many_layers_as_for_one(monkeypatch):
    def calls(layers):
        count = 0
        act = OwnSiLU()
        model = nn.Sequential(*itertools.chain.from_iterable((nn.BatchNorm1d(3), act) for _ in range(layers)))
        with monkeypatch.context() as patch:
            forward = OwnSiLU.forward

            def counted(self, x):
                nonlocal count
                count += 1
                return forward(self, x)

            patch.setattr(OwnSiLU, "forward", counted)
            assert len(bn.convert(model, fuse=True)[1].fused) == layers
        return count

    assert calls(3) == calls(1) > 0


def hooked(module):
    module.register_forward_hook(lambda *args: None)
    return module


class Scaled(OwnSiLU):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))


class Flagged(nn.Module):
    def forward(self, x, inplace=False):
        return F.relu(x)


class Doing(OwnSiLU):
    def inverse(self, x):
        return x


class ByMode(nn.Module):
    def forward(self, x):
        return F.relu(x) if self.training else F.silu(x)


class Frozen(nn.Module):
    @torch.no_grad()
    def forward(self, x):
        return F.relu(x)


@pytest.mark.parametrize(
    "act",
    [lambda: Holder(hooked(nn.ReLU())), Scaled, Flagged, Doing, ByMode, Frozen,
     lambda: Holder(nn.LeakyReLU(0.2)), lambda: torch.fx.symbolic_trace(OwnSiLU())],
)  # fmt: skip
def test_a_class_that_is_more_than_one_activation_is_left(act):
    _, report = bn.convert(Bare(act=act()), fuse=True)
    assert report.fused == {}
    assert report.left["bn"].endswith(" follows, which no layer can apply")


@pytest.mark.parametrize("downsample", [False, True])
def test_one_activation_module_in_two_places_of_a_residual_block(downsample):
    model = nn.Sequential(Basic(downsample), Basic())
    original, before = copy.deepcopy(model), fingerprint(model)
    _, report = bn.convert(model, fuse=True, example=images())
    expected = {"0.bn1": "relu", "0.bn2": "add, relu", "1.bn1": "relu", "1.bn2": "add, relu"}
    assert report.fused == expected
    assert report.left == (
        {"0.downsample.1": "not fused: what follows goes into another layer"} if downsample else {}
    )
    assert type(model[0].relu) is nn.ReLU
    assert list(model.state_dict()) == list(original.state_dict())
    assert repr(model).count("activation='relu'") == 4
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model) == before
    assert type(model[0]) is Basic


class ConvBlock(nn.Module):
    """How many libraries write it: a convolution, batch norm, perhaps an activation."""

    def __init__(self, act=None, seed=1):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 3, padding=1, bias=False), spoiled(nn.BatchNorm2d(3), seed)
        self.act = act or nn.Identity()

    def forward(self, x):
        return self.act(self.bn(self.conv(x)))


class Unit(nn.Module):
    """Its last batch norm is two calls deeper than the addition."""

    def __init__(self, act=None, add=None, last=ConvBlock):
        super().__init__()
        self.body = nn.Sequential(ConvBlock(nn.ReLU(inplace=True)), last(seed=2))
        self.act, self.add = act or nn.ReLU(inplace=True), add or operator.add

    def forward(self, x):
        return self.act(self.add(self.body(x), x))


class Wrapped(nn.Module):
    """No addition, but an activation that follows a block."""

    def __init__(self, act):
        super().__init__()
        self.block, self.act = ConvBlock(), act

    def forward(self, x):
        return self.act(self.block(x))


@pytest.mark.parametrize("add", [*ADDITIONS.values(), lambda y, r: operator.iadd(r * 2, y)])
@pytest.mark.parametrize("act", [nn.ReLU(inplace=True), F.gelu])
def test_a_residual_reaches_the_layer_through_the_modules_that_call_it(add, act):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Unit(act, add), Unit(act, add))
    original, before = copy.deepcopy(model), fingerprint(model)
    _, report = bn.convert(model, fuse=True, example=images())
    name = "gelu" if act is F.gelu else "relu"
    assert report.fused == {
        f"{unit}.body.{block}.bn": f"add, {name}" if block else "relu" for unit in (1, 2) for block in (0, 1)
    }
    assert report.left == {}
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model) == before


@pytest.mark.parametrize("act", [nn.SiLU(), F.silu])
def test_an_activation_after_the_module_that_calls_the_layer(act):
    model = nn.Sequential(Wrapped(act), Wrapped(act))
    original, before = copy.deepcopy(model), fingerprint(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"0.block.bn": "silu", "1.block.bn": "silu"}
    assert type(model[0].block) is ConvBlock
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model) == before


def test_a_block_may_be_called_with_a_residual_here_and_without_there():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.act = ConvBlock(), nn.ReLU()

        def forward(self, x):
            return self.act(self.block(x) + x) - F.relu(self.block(x * 2))

    model = nn.Sequential(Both())
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True, example=images())[1].fused == {"0.block.bn": "add, relu"}
    assert_same_function(model, original)


class Listing(ConvBlock):
    def forward(self, x):
        return [super().forward(x)][0], x


class First(nn.Module):
    def __init__(self, seed):
        super().__init__()
        self.block = Listing(seed=seed)

    def forward(self, x):
        return self.block(x)[0]


class Starred(ConvBlock):
    def forward(self, *inputs):
        return super().forward(inputs[0])


class Again(ConvBlock):
    """Calls its own block a second time, without an activation."""

    def __init__(self, seed):
        super().__init__(seed=seed)
        self.block = ConvBlock(seed=seed)

    def forward(self, x):
        return self.block(self.block(x))


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        (First, "its output leaves Listing among others"),
        (Starred, "Starred takes any number of arguments"),
        (Again, "its output leaves ConvBlock: ConvBlock follows, which no layer can apply"),
    ],
)
def test_a_module_on_the_way_that_does_something_else_prevents_fusion(last, reason):
    model = nn.Sequential(Unit(last=last))
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"0.body.0.bn": "relu"}
    assert any(words.startswith(f"not fused: {reason}") for words in report.left.values()), report.left
    assert_same_function(model, original)


@pytest.mark.parametrize("of", ["body", "body.1", "body.1.act", "body.1.bn"])
def test_hooks_on_the_way_prevent_fusion(of):
    model = nn.Sequential(Unit())
    seen = []
    model[0].get_submodule(of).register_forward_hook(lambda module, args, output: seen.append(output.min()))
    _, report = bn.convert(model, fuse=True, example=images())
    assert set(report.fused) == {"0.body.0.bn"}
    assert "0.body.1.bn" in report.left
    model(images())
    assert min(seen) < 0


def test_without_an_example_only_modules_give_way():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), spoiled(nn.BatchNorm2d(3)), nn.ReLU(), Basic(), Bare(F.relu))
    original, before = copy.deepcopy(model), fingerprint(model)
    _, report = bn.convert(model, fuse=True)
    assert report.fused == {"1": "relu"}
    assert report.left == dict.fromkeys(
        ("3.bn1", "3.bn2", "4.bn"), "not fused: takes other code, and so an example"
    )
    assert repr(model[2]) == "Absorbed(ReLU)"
    assert type(model[3]) is Basic
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model) == before


class Twice(nn.Module):
    """One activation after batch norm and once more alone."""

    def __init__(self):
        super().__init__()
        self.bn, self.act, self.out = spoiled(nn.BatchNorm2d(3)), nn.SiLU(), nn.Conv2d(3, 3, 1)

    def forward(self, x):
        return self.act(self.out(self.act(self.bn(x))))


def test_an_activation_that_is_also_used_elsewhere_stays_there():
    model = nn.Sequential(Twice())
    original = copy.deepcopy(model)
    assert bn.convert(copy.deepcopy(model), fuse=True)[1].fused == {}
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"0.bn": "silu"}
    assert type(model[0].act) is nn.SiLU
    assert_same_function(model, original)


def test_one_activation_object_in_many_blocks_gives_way_in_all():
    act = nn.SiLU()
    model = nn.Sequential(*[Bare(act) for _ in range(3)])
    original, before = copy.deepcopy(model), fingerprint(model)
    _, report = bn.convert(model, fuse=True)
    assert len(report.fused) == 3
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model) == before


class Called(nn.Module):
    """Batch norm whose output or whose very self is used in another way too."""

    def __init__(self, how):
        super().__init__()
        self.bn, self.act, self.how = spoiled(nn.BatchNorm2d(3)), nn.ReLU(), how
        self.inplace = nn.Sequential(nn.Hardtanh(inplace=True))
        self.seen, self.kept = [], [{}]

    def forward(self, x):
        return self.how(self, x)


def residual_written_by_a_module(self, x):
    r = x + 1
    y = self.bn(x) + r
    other = F.relu(self.inplace(r))
    return self.act(y) + other


def inplace_residual(self, x):
    shortcut = total = x * 2
    total += self.bn(x)
    return self.act(total) + shortcut


def input_changed(self, x):
    x = x + 1
    y = self.bn(x)
    x.mul_(3)
    return self.act(y + x)


def residual_changed(self, x):
    r = x + 1
    y = self.bn(x) + r
    return r.zero_() + self.act(y)


OTHER_USES = {
    "output twice": (lambda self, x: self.act(y := self.bn(x)) + y, "its output has 2 uses"),
    "in place": (lambda self, x: F.relu_(y := self.bn(x)) + y, "its output has 2 uses"),
    "sum twice": (lambda self, x: self.act(y := self.bn(x) + x) + y, "its sum with another has 2 uses"),
    "itself": (lambda self, x: self.act((y := self.bn(x)) + y), "no activation follows"),
    "number": (lambda self, x: self.act(self.bn(x) + 1), "no activation follows"),
    "alpha": (lambda self, x: self.act(torch.add(self.bn(x), x, alpha=2)), "no activation follows"),
    "subtraction": (lambda self, x: self.act(self.bn(x) - x), "sub follows, which no layer can apply"),
    "called twice": (lambda self, x: self.act(self.bn(x)) + self.bn(x * 2), "no activation follows"),
    "two activations": (
        lambda self, x: self.act(self.bn(x)) + torch.tanh(self.bn(x * 2)),
        "is called at several places with different activations",
    ),
    "by name": (lambda self, x: self.act(self.bn(input=x) + x), "is called with more than its input"),
    "not called": (lambda self, x: self.act(x), "is not called by the module that holds it"),
    "data": (lambda self, x: self.act(self.bn(x)) if float(x.sum()) > 0 else x, "Called cannot be traced: "),
    "mode": (
        lambda self, x: self.act(self.bn(x)) if self.training else x,
        "Called runs other code in training",
    ),
    "attribute": (
        lambda self, x: setattr(self, "seen", x) or self.act(self.bn(x)),
        "Called changes its attributes when it runs",
    ),
    "list": (
        lambda self, x: self.seen.append(y := self.bn(x)) or self.act(y),
        "Called changes its attributes when it runs",
    ),
    "dict in a list": (
        lambda self, x: self.kept[0].update(y=(y := self.bn(x))) or self.act(y),
        "Called changes its attributes when it runs",
    ),
    "inplace residual": (inplace_residual, "its residual is changed in place"),
    "input changed": (input_changed, "its input or residual is changed before the activation"),
    "residual changed": (residual_changed, "its input or residual is changed before the activation"),
    "residual changed in a module": (
        residual_written_by_a_module,
        "its input or residual is changed before the activation",
    ),
    "no grad": (
        torch.no_grad()(lambda self, x: F.relu(self.bn(x))),
        "Called runs in its own mode of autograd",
    ),
    "autocast": (
        torch.autocast("cpu", enabled=False)(lambda self, x: F.relu(self.bn(x))),
        "Called runs in its own mode of autograd or autocast",
    ),
}


@pytest.mark.parametrize("use", OTHER_USES)
def test_every_other_user_of_the_output_the_layer_or_the_code_prevents_fusion(use):
    how, reason = OTHER_USES[use]
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Called(how))
    attributes = dict(vars(model[1]))
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {}
    assert report.left["1.bn"].startswith(f"not fused: {reason}")
    assert vars(model[1]) == attributes
    assert (model[1].seen, model[1].kept) == ([], [{}])
    if use not in ("data", "attribute", "no grad", "input changed"):
        assert_same_function(model, original)


def test_one_part_that_cannot_be_traced_does_not_spoil_the_rest():
    untraceable = Called(OTHER_USES["data"][0])
    model = nn.Sequential(Basic(), untraceable, Bare(F.gelu))
    _, report = bn.convert(model, fuse=True, example=images())
    assert set(report.fused) == {"0.bn1", "0.bn2", "2.bn"}


@pytest.mark.parametrize("of", ["bn", "act"])
@pytest.mark.parametrize("kind", ["forward", "forward_pre", "full_backward", "full_backward_pre"])
def test_hooks_that_would_see_other_values_prevent_fusion(of, kind):
    model = Bare(nn.ReLU())
    getattr(getattr(model, of), f"register_{kind}_hook")(lambda *args: None)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {}
    assert "hooks" in report.left["bn"]


def test_hooks_of_a_block_that_runs_other_code_still_fire():
    model, seen = nn.Sequential(Basic()), []
    model[0].register_forward_hook(lambda *args: seen.append("block"))
    model[0].conv1.register_forward_hook(lambda *args: seen.append("conv1"))
    bn.convert(model, fuse=True, example=images())
    seen.clear()
    model(images())
    assert seen == ["conv1", "block"]


class Extractor(Bare):
    """Another method computes with the same layer."""

    def __init__(self):
        super().__init__(F.gelu)

    def features(self, x):
        return F.gelu(self.bn(x))


def test_a_layer_that_another_method_uses_keeps_its_code():
    model = nn.Sequential(Extractor())
    expected = copy.deepcopy(model[0]).eval().features(images())
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.left == {"0.bn": "not fused: Extractor uses it in features too"}
    torch.testing.assert_close(model[0].eval().features(images()), expected)


class Encoder(nn.Module):
    """Two more ways through its layers, neither of which is a part of ``forward``."""

    def __init__(self, **modules):
        super().__init__()
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 1), spoiled(nn.BatchNorm2d(3)), nn.ReLU()
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


class Features(Encoder):
    def other(self, x):
        return self.bn(self.conv(x))


class Project(Encoder):
    def other(self, x):
        return self.relu(self.conv(x))


class Forward(Encoder):
    def other(self, x):
        return self.bn.forward(self.conv(x))


class Nested(Encoder):
    def other(self, x):
        return (lambda y: self.relu(y))(self.conv(x))


class Outer(nn.Module):
    """Activates what a part returns, and gives the part's output too."""

    def __init__(self):
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 3, 1), spoiled(nn.BatchNorm2d(3)))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.part(x))

    def other(self, x):
        return self.part(x)


class Head(nn.Module):
    """Registers an activation of another, and uses it in a method."""

    def __init__(self, relu):
        super().__init__()
        self.relu = relu

    def forward(self, x):
        return x

    def other(self, x):
        return self.relu(x)


class Shared(Encoder):
    def __init__(self):
        super().__init__()
        self.head = Head(self.relu)

    def forward(self, x):
        return self.head(super().forward(x))

    def other(self, x):
        return self.head.other(self.conv(x))


class Hidden(nn.Module):
    """Holds an activation of another where torch does not see it."""

    def __init__(self, relu):
        super().__init__()
        self.acts = [relu]

    def forward(self, x):
        return self.acts[0](x - 0.3)


class Listed(Encoder):
    def __init__(self):
        super().__init__()
        self.head = Hidden(self.relu)

    def forward(self, x):
        return self.head(super().forward(x))

    other = forward


class Decorated(Encoder):
    @torch.no_grad()
    def other(self, x):
        return self.bn(self.conv(x))


class Cached(Encoder):
    @functools.lru_cache(maxsize=0)  # noqa: B019
    def other(self, x):
        return self.bn(self.conv(x))


class Property(Encoder):
    @property
    def first(self):
        return nn.Sequential(self.conv, self.bn)

    def other(self, x):
        return self.first(x)


@pytest.mark.parametrize(
    "kind", [Features, Project, Forward, Nested, Outer, Shared, Listed, Decorated, Cached, Property]
)
@pytest.mark.parametrize("with_example", [False, True])
def test_other_methods_give_what_they_gave(kind, with_example):
    model = kind().eval()
    x = images()
    expected = model(x), model.other(x)
    bn.convert(model, fuse=True, example=x if with_example else None)
    torch.testing.assert_close((model(x), model.other(x)), expected)


def test_a_method_that_forward_is_made_of_prevents_nothing():
    class Split(Encoder):
        def stem(self, x):
            return self.relu(self.bn(self.conv(x)))

        def forward(self, x):
            return self.stem(x)

        def train(self, mode=True):
            self.bn.eval()
            return super().train(mode)

    _, report = bn.convert(Split(), fuse=True)
    assert report.fused == {"bn": "relu"}


def test_what_differs_on_the_example_is_left_and_the_rest_fused():
    class Fooled(Bare):
        # a trace sees no tensor, so it sees the other branch
        def forward(self, x):
            y = self.bn(self.conv(x))
            return F.relu(y) if not isinstance(x, torch.Tensor) else y.clone()

    model = nn.Sequential(Basic(), Fooled())
    original, before = copy.deepcopy(model), fingerprint(model[1])
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"0.bn1": "relu", "0.bn2": "add, relu"}
    assert report.left == {"1.bn": "not fused: the outputs on the example change"}
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model[1]) == before


def test_a_residual_of_another_shape_is_added_as_before_or_left():
    class Broadcast(Block):
        def forward(self, x):
            return self.act(self.bn(x) + x.mean((2, 3), keepdim=True))

    class Grows(Block):
        def forward(self, x):
            return self.act(self.bn(x[:1]) + x)

    model = nn.Sequential(Broadcast(), Grows())
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"0.bn": "add, relu"}
    assert report.left["1.bn"].startswith("not fused: the example fails")
    assert_same_function(model, original)


def test_a_residual_of_another_dtype_gives_the_dtype_of_the_sum():
    # Under autocast convolutions give bfloat16, while the shortcut is float32.
    for add, dtype, cls, at in (
        (operator.add, torch.float32, Block, "bn"),
        (operator.iadd, torch.bfloat16, Block, "bn"),
        (operator.iadd, torch.bfloat16, Unit, "body.1.bn"),
    ):
        model = cls(add=add).float()
        original = copy.deepcopy(model)
        _, report = bn.convert(model, fuse=True, example=images().float())
        assert report.fused[at] == "add, relu"
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = model(images().float()), original(images().float())
        assert ours.dtype == theirs.dtype == dtype
        torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.02)


def test_the_example_leaves_no_trace():
    model = nn.Sequential(Basic(), nn.Dropout(0.5), Bare(F.silu)).train()
    model[2].bn.eval()
    buffers = {name: (id(value), bits(value)) for name, value in model.named_buffers()}
    modes = [module.training for module in model.modules()]
    example = images()
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    _, report = bn.convert(model, fuse=True, example=example)
    assert len(report.fused) == 3
    assert torch.rand(1) == expected
    assert torch.equal(example, images())
    assert [module.training for module in model.modules()] == modes
    assert {name: (id(value), bits(value)) for name, value in model.named_buffers()} == buffers
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(layer.backend == "auto" for layer in (model[0].bn1, model[0].bn2, model[2].bn))


def test_examples_are_arguments():
    class Pair(Bare):
        def forward(self, x, scale):
            return {"out": (super().forward(x * scale), [scale])}

    for example in ((images(), 2.0), [images(), 2.0], {"x": images(), "scale": 2.0}):
        assert bn.convert(Pair(F.relu), fuse=True, example=example)[1].fused == {"bn": "relu"}


def test_a_model_that_fails_on_its_example_is_as_before():
    model = nn.Sequential(Basic(), nn.Linear(5, 5))
    before = fingerprint(model)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        bn.convert(model, fuse=True, example=images())
    assert fingerprint(model) == before


def test_a_model_that_returns_no_tensor_is_refused():
    class Silent(Bare):
        def forward(self, x):
            super().forward(x)

    with pytest.raises(ValueError, match="example expected to make the model return a tensor, got NoneType"):
        bn.convert(Silent(), fuse=True, example=images())


def test_a_model_that_is_never_the_same_is_left():
    class Restless(nn.Module):
        count = 0.0

        def forward(self, x):
            Restless.count += 1
            return x * Restless.count

    model = nn.Sequential(Basic(), Restless())
    _, report = bn.convert(model, fuse=True, example=images())
    assert set(report.left.values()) == {"not fused: the outputs on the example differ from run to run"}


def test_attributes_that_the_new_code_would_not_see_cannot_be_changed():
    model = Block()
    model.rate, model.tag = 0, "a"
    bn.convert(model, fuse=True, example=images())
    model.train()
    model.tag = "a"
    model.note = "new"
    model.conv = nn.Conv2d(3, 3, 1)
    with pytest.raises(RuntimeError, match="convert: rate of Block expected 0 as when it was fused, got 1"):
        model.rate = 1
    bn.revert(model)
    model.rate = 1


def test_subclass_lists_do_not_see_the_new_class():
    seen = []

    class Registered(Bare):
        def __init_subclass__(cls, **options):
            seen.append(cls)

    bn.convert(Registered(F.relu), fuse=True, example=images())
    assert seen == []


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_compute_and_revert_by_themselves(copier):
    model = nn.Sequential(Basic(), Bare(nn.ReLU()), Basic(downsample=True), Unit())
    original, before = copy.deepcopy(model), fingerprint(model)
    bn.convert(model, fuse=True, example=images())
    other = copier(model)
    assert_same_function(other, original)
    bn.revert(other)
    assert fingerprint(other) == before
    assert model[0].bn2.activation == "relu"
    assert_same_function(model, original)


def test_a_second_call_fuses_what_a_first_one_converted():
    model = nn.Sequential(Basic())
    original, before = copy.deepcopy(model), fingerprint(model)
    bn.convert(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.converted == ()
    assert len(report.fused) == 2
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {}
    assert_same_function(model, original)
    bn.revert(model)
    assert fingerprint(model) == before


def test_a_second_call_goes_on_in_a_block_that_runs_other_code_already():
    model = nn.Sequential(Basic(), Unit())
    original, before = copy.deepcopy(model), fingerprint(model)
    hooks = [layer.register_forward_hook(lambda *args: None) for layer in (model[0].bn2, model[1].body[1].bn)]
    assert set(bn.convert(model, fuse=True, example=images())[1].fused) == {"0.bn1", "1.body.0.bn"}
    for hook in hooks:
        hook.remove()
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"0.bn2": "add, relu", "1.body.1.bn": "add, relu"}
    assert_same_function(pickle.loads(pickle.dumps(model)), original)
    bn.revert(model)
    assert fingerprint(model) == before


def test_our_own_layers_are_fused_too_and_only_those_are_marked():
    model = nn.Sequential(bn.BatchNorm2d(3), nn.ReLU(), bn.BatchNorm2d(3), nn.Softplus())
    before = fingerprint(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"0": "relu"}
    _, report = bn.revert(model)
    assert report.converted == ("0",)
    assert fingerprint(model) == before


def test_a_fused_block_is_traced_as_what_it_computes():
    model = nn.Sequential(Basic())
    original = copy.deepcopy(model)
    bn.convert(model, fuse=True, example=images())
    code = own_code(model[0])
    assert_same_function(torch.fx.GraphModule(model[0], code.graph), original[0])


def test_caches_that_a_forward_fills_stay_empty():
    class Filled(nn.Module):
        def __init__(self):
            super().__init__()
            self.cache = []

        def forward(self, x):
            self.cache.append(x)
            return x

    model = nn.Sequential(Basic(), Filled())
    bn.convert(model, fuse=True, example=images())
    assert model[1].cache == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the compiler's own
def test_a_fused_network_compiles_in_one_graph():
    model = nn.Sequential(Basic(), Unit(), Bare(nn.ReLU())).eval()
    original = copy.deepcopy(model)
    bn.convert(model, fuse=True, example=images())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), original(images()))


def test_a_graph_module_keeps_the_code_that_it_writes_itself():
    model = nn.Sequential(torch.fx.symbolic_trace(Block()), torch.fx.symbolic_trace(Bare()))
    original = copy.deepcopy(model)
    _, report = bn.convert(model, fuse=True, example=images())
    assert report.fused == {"1.bn": "relu"}
    assert report.left == {"0.bn": "not fused: Block writes its code itself"}
    assert_same_function(model, original)


def test_a_network_that_cannot_be_copied_is_tried_itself():
    model = nn.Sequential(Block())
    original = copy.deepcopy(model)
    model[0].lock = threading.Lock()
    assert bn.convert(model, fuse=True, example=images())[1].fused == {"0.bn": "add, relu"}
    del model[0].lock
    assert_same_function(model, original)
