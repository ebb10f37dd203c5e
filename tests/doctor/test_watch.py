"""A watch looks at a training that is running, says each fault once, and leaves no trace."""

import contextlib
import math

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from batchnorm import BatchNormLSTM
from batchnorm.doctor import BatchNormWarning, Watch
from tests.doctor.networks import batches, by_class, fresh, trained
from tests.doctor.test_untouched import everything
from tests.processes import in_processes


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


def test_a_setting_that_is_unknown_is_a_type_error():
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        Watch(fresh(), foo=3)


class Keeps(nn.BatchNorm2d):
    """Keeps the batch's mean, with its graph, for a penalty."""

    def forward(self, x):
        self.batch_mean = x.mean((0, 2, 3))
        return super().forward(x)


def test_a_layer_that_keeps_tensors_of_a_graph_is_watched():
    assert "BN023" not in [finding.code for finding in seen(fresh(Keeps), batches())]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = BatchNormLSTM(8, 6, max_steps=8, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        return self.fc(self.rnn(x.squeeze(1))[0][:, -1])


def test_a_recurrent_network_is_watched_and_its_first_state_is_no_dead_channel():
    torch.manual_seed(0)
    assert [finding.code for finding in seen(Recurrent(), batches(), 150) if finding.code == "BN004"] == []


def test_another_networks_layers_are_none_of_its_business():
    student, teacher = trained(), trained(seed=1)

    def distilled(x):
        with torch.no_grad():
            teacher(x)
        return student(x)

    assert seen(student, batches(), forward=distilled, rules=["BN019"]) == []


def test_of_several_optimizers_all_groups_and_steps_count():
    model, data = trained(), batches()
    optimizers = [torch.optim.SGD(part.parameters(), 0.01) for part in (model[9:], model[:9])]
    found = []
    with Watch(model, every=8, optimizer=optimizers, on_finding=found.append):
        for x, y in data:
            model.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            for optimizer in optimizers:
                optimizer.step()
    assert found == []
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in optimizers)


def test_a_rule_that_fails_hides_no_other(monkeypatch, rules_may_fail):
    monkeypatch.setattr("batchnorm.doctor.rules.bn013_eps_mismatch.check", broken)
    model = trained(momentum=0.001)
    assert [finding.code for finding in seen(model, batches(), rules=["BN012", "BN013"])] == ["BN012"] * 3


def broken(*_, **__):
    raise IndexError("index 9 is out of bounds")


@pytest.mark.parametrize("where", ["watch.layers_of_model", "watch.Pass", "watch.examine", "observe.moments"])
def test_a_look_that_fails_says_so_once_and_training_goes_on(where, monkeypatch):
    watched, alone, hooks = trained(), trained(), everything(trained())[0]
    monkeypatch.setattr(f"batchnorm.doctor.{where}", broken)
    expected = pytest.warns(BatchNormWarning, match="Watch: stopped looking: IndexError: index 9 is out")
    with expected as warned:
        assert seen(watched, batches()) == []
    assert len(warned) == 1
    run(alone, batches(), 20)
    for one, other in zip(watched.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(one, other)
    assert {name: parts[-1] for name, parts in everything(watched)[0].items()} == {
        name: parts[-1] for name, parts in hooks.items()
    }


def test_an_error_of_on_finding_is_the_owners():
    def stop(finding):
        raise KeyError(finding.code)

    model = trained(momentum=0.001)
    with pytest.raises(KeyError, match="BN012"), Watch(model, every=8, on_finding=stop):
        run(model, batches(), 20)


def watched_alone(rank):
    model, found = DistributedDataParallel(trained(momentum=0.001)), []
    with Watch(model, every=8, on_finding=found.append) if rank == 0 else contextlib.nullcontext():
        run(model, batches(), 20)
    return {finding.code for finding in found}


def test_one_process_of_several_is_watched_without_the_others():
    assert in_processes(2, watched_alone, timeout_s=5) == [{"BN012"}, set()]
