"""Other people's networks: equal outputs in both modes, a round trip to the bit, and the page's numbers."""

import copy
import re
from pathlib import Path

import pytest
import torch

import batchnorm as bn
from tests.surgery.test_convert import fingerprint
from tests.zoo.small_networks import ARCHITECTURES, build

pytestmark = pytest.mark.zoo
PAGE = Path(__file__).parent.parent.parent / "docs" / "convert.md"


@pytest.fixture(params=ARCHITECTURES)
def network(request):
    library, _ = request.param.split()
    pytest.importorskip(library, reason=f"{library} is not installed: make zoo")
    return (request.param, *build(request.param))


def outcome(model, example, training):
    """Output, gradients and buffers of one step of a copy, with the randomness of a seed."""
    model = copy.deepcopy(model).train(training)
    torch.manual_seed(1)
    output = model(**example) if isinstance(example, dict) else model(example)
    output = output if isinstance(output, torch.Tensor) else output.last_hidden_state
    output.sin().sum().backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return (
        output,
        {name: grad for name, grad in gradients.items() if grad is not None},
        dict(model.named_buffers()),
    )


def table():
    """Rows of the page: layers converted, fused, fused with an addition."""
    rows = re.findall(r"^\| (\w+ \w+) \| (\d+) \| (\d+) \| (\d+) \|", PAGE.read_text(), flags=re.MULTILINE)
    return {name: tuple(map(int, counts)) for name, *counts in rows}


def test_outputs_are_equal_and_the_round_trip_is_exact(network):
    name, model, example = network
    original, before = copy.deepcopy(model), fingerprint(model)
    expected = [outcome(original, example, training) for training in (False, True)]
    for fuse in (False, True):
        _, report = bn.convert(model, fuse=fuse, example=example if fuse else None)
        assert all("not fused" in reason for reason in report.left.values())
        if fuse:
            additions = sum("add" in words for words in report.fused.values())
            assert (len(report.converted), len(report.fused), additions) == table()[name]
        for training in (False, True):
            torch.testing.assert_close(outcome(model, example, training), expected[training])
        bn.revert(model)
        assert fingerprint(model) == before
    torch.testing.assert_close(outcome(model, example, True), expected[True], rtol=0, atol=0)


def test_the_page_counts_just_these():
    assert list(table()) == list(ARCHITECTURES)
