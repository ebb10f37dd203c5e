"""Where torch.fx cannot trace through a decorator, what it wraps is traced, if it leaves the parts alone."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import batchnorm as bn
from batchnorm.surgery import fold
from tests.surgery.folds import assert_folds, settled


def images():
    return torch.randn(2, 4, 6, 6, dtype=torch.float64)


def plain(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return_tuple = kwargs.pop("return_tuple", getattr(self.config, "return_tuple", False))
        output = function(self, *args, **kwargs)
        return (output,) if return_tuple else output

    return wrapper


def twice(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return function(self, function(self, *args, **kwargs) + 1)

    return wrapper


def by_attribute(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return self.conv(*args) if kwargs.get("raw") else function(self, *args, **kwargs)

    return wrapper


def by_string(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return getattr(self, "conv")(*args) if kwargs.get("raw") else function(self, *args)  # noqa: B009

    return wrapper


def first_part(module, x):
    return next(module.children())(x)


def by_function(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return first_part(self, *args) if kwargs.get("raw") else function(self, *args)

    return wrapper


def by_list(function):
    @functools.wraps(function)
    def wrapper(self, *args, **kwargs):
        return self.kept[0](*args) if kwargs.get("raw") else function(self, *args)

    return wrapper


def network(decorator, forward):
    class Net(nn.Module):
        config = None

        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.act = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()
            self.kept = [self.conv]

    Net.forward = decorator(forward)
    return settled(Net())


def block(self, x, mask=None, **kwargs):
    return self.act(self.norm(self.conv(x)))


def keyword_only(self, x, *, mask=None):
    return self.act(self.norm(self.conv(x)))


@pytest.mark.parametrize(
    "decorator", [plain, twice, lambda function: plain(twice(function)), torch.no_grad()]
)
@pytest.mark.parametrize("forward", [block, keyword_only])
def test_what_a_decorator_wraps_is_traced(decorator, forward):
    model = network(decorator, forward)
    assert assert_folds(model, images())[1].folded == {"norm": ("conv",)}
    original, x = copy.deepcopy(model), images()
    assert bn.convert(model, fuse=True)[1].fused == {"norm": "relu"}
    for training in (False, True):
        torch.testing.assert_close(model.train(training)(x), original.train(training)(x))


@pytest.mark.parametrize(
    ("decorator", "name"),
    [(by_attribute, "conv"), (by_string, "conv"), (by_function, "children"), (by_list, "kept")],
)
def test_a_decorator_that_may_use_the_parts_is_told(decorator, name):
    model, x = network(decorator, block), images()
    raw = model(x, raw=True)
    folded, report = fold(model, x)
    reason = f"its forward is wrapped by a decorator that may use its parts ({name})"
    assert report.untraced == {"": f"TraceError: {reason}"}
    torch.testing.assert_close(folded(x, raw=True), raw)
    _, report = bn.convert(model, fuse=True, example=x)
    assert report.left == {"norm": f"not fused: Net cannot be traced: {reason}"}


def test_code_below_a_decorator_is_not_replaced():
    def forward(self, x, **kwargs):
        return F.relu(self.norm(self.conv(x)))

    model, x = network(plain, forward), images()
    _, report = bn.convert(model, fuse=True, example=x)
    assert report.left == {"norm": "not fused: Net is wrapped by a decorator"}
    assert isinstance(model(x, return_tuple=True), tuple)


def test_arguments_without_names_that_are_used_are_not_known():
    def forward(self, x, **kwargs):
        y = self.conv(x)
        return y if "raw" in kwargs else self.norm(y)

    model = network(plain, forward)
    assert fold(model, images())[1].folded == {}
