import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, rows, trained
from tests.doctor.rules.mending import mend


class Distilled(nn.Module):
    """A student beside a teacher under no_grad."""

    def __init__(self, mode):
        super().__init__()
        self.student, self.teacher = trained(0), trained(1)
        self.mode = mode
        self.teacher.train(mode)

    def train(self, mode=True):
        super().train(mode)
        self.teacher.train(self.mode and mode)
        return self

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher(x)
        return (self.student(x) - target).square()


def test_fires_on_a_teacher_in_training_mode(whole):
    report = diagnose(Distilled(True), batches(seed=10))
    assert report.codes == ("BN035",)
    assert [f.layer for f in report.findings] == ["teacher.1", "teacher.4", "teacher.7"]
    whole(report)


def test_fires_in_prediction_mode_where_eval_would_not_last(whole):
    report = diagnose(Distilled(True).eval(), batches(seed=10))
    assert report.codes == ("BN035",)
    whole(report)


def test_fires_on_a_layer_that_moves_under_no_grad():
    class Taught(nn.Module):
        def __init__(self):
            super().__init__()
            self.teacher, self.student, self.out = nn.BatchNorm1d(4), nn.BatchNorm1d(4), nn.Linear(4, 1)

        def forward(self, x):
            with torch.no_grad():
                self.target = self.teacher(x)
            return self.out(self.student(x) - self.target)

    model = Taught()
    model(rows(512)[0] + 5)
    torch.testing.assert_close(model.teacher.running_mean, torch.full((4,), 0.5), atol=0.02, rtol=0)
    report = diagnose(model, [row + 5 for row in rows()], rules=["BN035"])
    assert [f.layer for f in report.findings] == ["teacher"]


def test_is_silent_on_a_teacher_in_prediction_mode():
    assert diagnose(Distilled(False), batches(seed=10)).findings == ()


def test_is_silent_where_nothing_trains():
    model = trained().requires_grad_(False)
    assert "BN035" not in diagnose(model, batches()).codes


def test_mending_puts_the_teacher_into_prediction_mode():
    model = Distilled(True)
    mend(model, diagnose(model, batches(), rules=["BN035"]), "BN035")
    assert diagnose(model, batches(), rules=["BN035"]).findings == ()
