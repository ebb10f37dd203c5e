import torch
from torch import nn

from batchnorm.doctor import diagnose
from batchnorm.nn import BatchNormLSTM
from tests.doctor.networks import Auxiliary, batches, norms, trained
from tests.doctor.rules.mending import mend


def reset(model):
    model[1].reset_running_stats()
    return model


def test_fires_on_a_layer_whose_weight_moved(whole):
    layer = nn.BatchNorm1d(3)
    nn.init.uniform_(layer.weight, 1.05, 1.15)
    report = diagnose(nn.Sequential(layer, nn.Linear(3, 1)))
    assert report.codes == ("BN001",)
    whole(report)


def test_fires_and_is_confirmed_by_data(whole):
    report = diagnose(reset(trained()), batches())
    assert report.codes == ("BN001",)
    assert report.findings[0].state == "confirmed"
    whole(report)


def test_fires_on_a_checkpoint_alone(whole):
    whole(diagnose(reset(trained()).state_dict()))


def untrained(steps):
    """A layer with nothing to train, whose network made so many steps beside it."""
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1))
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for _ in range(steps):
        model[1](torch.ones(2, 3)).sum().backward()
        optimizer.step()
    return model, optimizer


def test_fires_on_a_layer_without_weight_after_a_step(whole):
    model, optimizer = untrained(1)
    whole(diagnose(model, optimizer=optimizer))


def test_is_silent_on_a_layer_without_weight_before_the_first_step():
    model, optimizer = untrained(0)
    assert diagnose(model, optimizer=optimizer).findings == ()


def test_is_silent_on_a_fresh_layer():
    assert diagnose(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))).findings == ()


def test_is_withdrawn_on_a_head_that_never_runs():
    report = diagnose(Auxiliary(), batches())
    assert report.findings == ()
    assert [(f.code, f.layer) for f in report.withdrawn] == [("BN001", "head")]


def test_is_silent_on_a_weight_drawn_around_one():
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 1))
    nn.init.normal_(model[0].weight, 1.0, 0.02)
    assert diagnose(model).findings == ()


def test_is_silent_on_a_weight_of_zero_at_the_start():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    nn.init.zeros_(model[0].weight)
    assert diagnose(model).findings == ()


def test_is_silent_where_the_counter_alone_is_lost():
    model = trained()
    for buffer in (model[1].num_batches_tracked, model[4].num_batches_tracked):
        buffer.zero_()
    assert "BN001" not in diagnose(model).codes


def test_is_withdrawn_where_the_initial_values_are_right():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    nn.init.uniform_(model[0].weight, 1.05, 1.15)
    data = [torch.randn(64, 3, generator=torch.Generator().manual_seed(n)) for n in range(20)]
    report = diagnose(model, data)
    assert report.findings == ()
    assert [(f.code, f.state) for f in report.withdrawn] == [("BN001", "withdrawn")]


def test_mending_measures_the_layer():
    model = reset(trained())
    (done,) = mend(model, diagnose(model, batches()), "BN001", batches())
    assert done.startswith("recalibrated 3 layers from 640 samples")
    assert diagnose(model, batches()).findings == ()


def test_is_silent_on_a_bias_that_starts_from_a_constant():
    """As fastai's 0.001."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    nn.init.constant_(model[0].bias, 1e-3)
    assert diagnose(model).findings == ()


def test_is_silent_on_a_recurrent_network_that_was_just_made():
    """Whose weights start from 0.1, and whose layers `recalibrate` would refuse."""
    assert diagnose(BatchNormLSTM(4, 8, max_steps=6)).findings == ()


def test_fires_on_a_layer_whose_bias_moved():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    nn.init.normal_(model[0].bias)
    assert diagnose(model).codes == ("BN001",)


class Distilled(nn.Module):
    """A student and a teacher whose weights follow it, but whose buffers were left behind."""

    def __init__(self):
        super().__init__()
        self.student, self.teacher = trained(), trained().requires_grad_(False)
        for norm in norms(self.teacher):
            norm.reset_running_stats()

    def forward(self, x):
        with torch.no_grad():
            taught = self.teacher(x)
        return self.student(x), taught


def test_fires_on_an_average_whose_buffers_were_left_behind(whole):
    model = Distilled()
    model.teacher.eval()
    report = diagnose(model, batches())
    assert report.codes == ("BN001",)
    whole(report)


def test_mending_an_average_measures_it_where_it_stands():
    model = Distilled()
    model.teacher.eval()
    mended, done = diagnose(model, batches()).fix(model, consent=("BN001",))
    assert done.remaining == ()
    assert not any(norm.training for norm in norms(mended.teacher))
    x, y = batches()[0]
    assert (mended.teacher.eval()(x).argmax(1) == y).float().mean() > 0.9
