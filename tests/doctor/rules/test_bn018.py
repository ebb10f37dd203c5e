import pytest
import torch

from batchnorm.doctor import diagnose
from tests.doctor.networks import trained


def sgd(model, spare):
    flat = [p for p in model.parameters() if p.dim() == 1]
    rest = [p for p in model.parameters() if p.dim() > 1]
    groups = [{"params": rest}, {"params": flat, "weight_decay": 0.0 if spare else 5e-4}]
    return torch.optim.SGD(groups, lr=0.1, weight_decay=5e-4)


@pytest.mark.parametrize(("steps", "severity"), [(None, "info"), (20000, "warn")])
def test_fires_on_decay(steps, severity, whole):
    model = trained()
    report = diagnose(model, optimizer=sgd(model, spare=False), steps=steps)
    assert (report.codes, report.severity) == (("BN018",), severity)
    if steps:
        assert report.findings[0].evidence["shrink"] == pytest.approx(0.368, abs=1e-3)
    whole(report)


def test_is_silent_on_a_group_without():
    model = trained()
    assert diagnose(model, optimizer=sgd(model, spare=True), steps=20000).findings == ()
