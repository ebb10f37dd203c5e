"""``int`` of a size that is not known while a forward is traced is noted, and may be asked about."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import batchnorm as bn
from batchnorm.surgery import fold
from tests.surgery.folds import assert_folds, settled

ALIAS = int
CONV = {"norm": ("conv",)}


def images(size=7):
    return torch.randn(2, 4, size, size, dtype=torch.float64)


def block():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU()

    return Block


def network(forward):
    return settled(type("Net", (block(),), {"forward": forward})())


def padded(x, conv):
    """As "same" padding is done in ports from TensorFlow."""
    height, width = int(x.shape[-2]), int(x.shape[-1])
    below = 2 if height % 2 == 0 else max(3 - height % 2, 0)
    aside = 2 if width % conv.stride[1] == 0 else 1
    return F.pad(x, (0, aside, 0, below))


def test_padding_by_the_size_does_not_hide_the_layers_after_it():
    model = network(lambda self, x: self.act(self.norm(self.conv(padded(x, self.conv)))))
    _, report = assert_folds(model, images(7), images(8), images(9))
    assert (report.folded, report.untraced) == (CONV, {})
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True)[1].fused == {"norm": "relu"}
    for size in (7, 8):
        x = images(size)
        torch.testing.assert_close(model(x), original(x))


def test_both_answers_to_a_question_about_a_size_are_seen():
    def forward(self, x):
        y = self.conv(x)
        return y if int(x.shape[-1]) > 8 else self.act(self.norm(y))

    for example in (None, images(7), images(9)):
        _, report = assert_folds(network(forward), images(7), images(9), example=example)
        assert report.folded == {}
        assert report.alone["norm"].startswith("conv also feeds an output")


def test_rewritten_code_computes_the_size_again():
    def forward(self, x):
        y = self.norm(self.conv(F.pad(x, (1, 1, 1, 1))))
        return self.act(y + F.interpolate(x, size=(int(x.shape[2]), int(x.shape[3]))))

    model = network(forward)
    original = copy.deepcopy(model)
    assert bn.convert(model, fuse=True, example=images())[1].fused == {"norm": "add, relu"}
    for size in (7, 10):
        x = images(size)
        torch.testing.assert_close(model(x), original(x))


def usual(three):
    """True as long as ``int`` is what it always is, but for identity."""
    kinds = {int: "int"}
    return (
        isinstance(three, int | float)
        and not isinstance("3", int)
        and issubclass(bool, int)
        and type(three) in (int, float)
        and kinds[type(three)] == "int"
        and int("11", 2) == three
        and list(map(int, (1.5, "2"))) == [1, 2]
    )


def test_all_other_uses_of_int_are_as_ever_meanwhile():
    def forward(self, x):
        y = self.act(self.norm(self.conv(padded(x, self.conv))))
        if not usual(3):
            raise ValueError("another int")
        return y

    assert assert_folds(network(forward), images())[1].untraced == {}


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_has_its_own_names_again(fails):
    def forward(self, x):
        y = self.norm(self.conv(padded(x, self.conv)))
        return y * float(x.sum()) if fails else y

    before = dict(globals())
    report = fold(network(forward))[1]
    assert bool(report.untraced) == fails
    bn.convert(network(forward), fuse=True)
    assert globals() == before
    assert "int" not in before


def named_otherwise(self, x):
    return self.norm(self.conv(x[:, :, ALIAS(x.shape[2]) :]))


# By exec, to be the only code with its global names.
OF_A_KIND = """
def forward(self, x, size=3):
    y = self.conv(x[:, :, int(x.shape[2]) % 2 :])
    return self.norm(y if type(size) is {not_}int else y + y)
"""


def alone(source):
    names = {"__name__": __name__}
    exec(source, names)
    return names["forward"]


@pytest.mark.parametrize(
    "forward",
    [named_otherwise, alone(OF_A_KIND.format(not_="")), alone(OF_A_KIND.format(not_="not "))],
    ids=["alias", "is int", "is not int"],
)
def test_code_that_would_see_another_int_is_not_known(forward):
    report = fold(network(forward))[1]
    assert report.folded == {}
    assert report.untraced[""] == "TypeError: int() argument must be a number, not one that is not known yet"


def test_a_forward_that_catches_errors_is_traced_all_the_same():
    def forward(self, x):
        try:
            size = int(x.shape[2])
        except:  # noqa: E722
            return self.conv(x)
        return self.norm(self.conv(x[:, :, : size - 1]))

    assert assert_folds(network(forward), images())[1].folded == CONV
