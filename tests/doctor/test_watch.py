"""A watch looks at a training that is running, says each fault once, and leaves no trace."""

import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from batchnorm.doctor import BatchNormWarning, Watch
from tests.doctor.networks import batches, by_class, fresh, trained
from tests.doctor.test_untouched import everything


def run(model, data, steps, optimizer=None, forward=None):
    """A training loop of so many steps."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), 0.01)
    for step in range(steps):
        x, y = data[step % len(data)]
        optimizer.zero_grad()
        nn.functional.cross_entropy((forward or model)(x), y).backward()
        optimizer.step()


def seen(model, data, steps=20, **options):
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    forward = options.pop("forward", None)
    found = []
    with Watch(model, every=8, optimizer=optimizer, on_finding=found.append, **options):
        run(model, data, steps, optimizer, forward)
    return found


def test_a_healthy_training_has_nothing_to_say():
    assert seen(trained(), batches()) == []


def test_a_fault_is_said_once():
    model = trained(momentum=0.001)
    found = seen(model, batches(), steps=40)
    assert [(finding.code, finding.layer) for finding in found] == [("BN012", n) for n in ("1", "4", "7")]


def test_sorted_batches_are_seen():
    assert [finding.code for finding in seen(trained(), by_class())] == ["BN026"]


def test_weights_that_move_fast_are_no_batches_that_are_alike():
    model, data = fresh(), batches()
    optimizer = torch.optim.SGD(model.parameters(), 1.0)
    found = []
    with Watch(model, every=8, optimizer=optimizer, on_finding=found.append):
        run(model, data, 40, optimizer)
    assert [finding.code for finding in found if finding.severity != "info"] == []


def test_an_infinite_batch_is_seen():
    model, data = trained(), batches()
    data[2][0][0, 0, 0, 0] = math.inf
    assert {finding.code for finding in seen(model, data)} == {"BN002"}


def test_recomputation_is_counted_in_the_optimizers_steps():
    model = trained()
    run_again = lambda x: checkpoint(model[:9], x, use_reentrant=False)  # noqa: E731

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return model[9:](run_again(x))

    found = seen(Net(), batches(), rules=["BN037"])
    assert [(finding.code, finding.evidence["updates"]) for finding in found] == [("BN037", 2.0)] * 3


def test_a_warning_is_given_for_errors_and_warnings():
    model = fresh(momentum=0.0)
    expected = pytest.warns(BatchNormWarning, match="BN012 momentum-never-converges in .: Momentum 0")
    with expected, Watch(model, every=8, rules=["BN012"]):
        run(model, batches(), 16)


def test_prediction_is_not_looked_at():
    model = trained(momentum=0.001).eval()
    found = []
    with Watch(model, every=8, on_finding=found.append), torch.no_grad():
        for x, _ in batches():
            model(x)
    assert found == []


def test_the_training_goes_on_as_if_nobody_watched():
    watched, alone = trained(), trained()
    seen(watched, batches())
    run(alone, batches(), 20)
    for one, other in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("step", [0, 9, 12])
def test_nothing_is_left_when_it_is_closed_or_interrupted(step):
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    hooks = everything(model)[0]

    def interrupted():
        with Watch(model, every=8, optimizer=optimizer):
            run(model, batches(), step, optimizer)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    left = everything(model)[0]
    assert {name: parts[-1] for name, parts in left.items()} == {
        name: parts[-1] for name, parts in hooks.items()
    }
    assert not optimizer._optimizer_step_post_hooks


def test_looking_at_too_few_forwards_is_refused():
    with pytest.raises(ValueError, match="Watch: every expected 8 or more forwards, got 7"):
        Watch(fresh(), every=7)
