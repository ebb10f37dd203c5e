import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained
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
    report = diagnose(Distilled(True), batches(seed=11))
    assert "BN035" in report.codes
    report = diagnose(Distilled(True), rules=["BN035"], loader=batches())
    assert [f.layer for f in report.findings] == ["teacher.1", "teacher.4", "teacher.7"]
    whole(report)


def test_is_silent_on_a_teacher_in_prediction_mode():
    assert "BN035" not in diagnose(Distilled(False), batches()).codes


def test_is_silent_where_nothing_trains():
    model = trained().requires_grad_(False)
    assert "BN035" not in diagnose(model, batches()).codes


def test_mending_puts_the_teacher_into_prediction_mode():
    model = Distilled(True)
    mend(model, diagnose(model, batches(), rules=["BN035"]), "BN035")
    assert diagnose(model, batches(), rules=["BN035"]).findings == ()
