"""A frozen body that is handed over in prediction mode stays frozen: its statistics are another domain's."""

import pytest
import torch

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained

OTHER = batches(shift=3.0)  # the domain it is fine-tuned on
BODY = ("1", "4", "7")


def fine_tuned(grad):
    """A pretrained body in prediction mode, a head that was trained on another domain."""
    model = trained()
    for child in list(model)[:-1]:
        child.requires_grad_(grad)
    return model.eval()


def codes(report):
    return [finding.code for finding in report.findings if finding.severity != "info"]


@pytest.mark.parametrize(
    ("grad", "frozen"), [(False, ()), (True, BODY)], ids=["without gradients", "named as frozen"]
)
def test_its_statistics_are_not_called_off(grad, frozen):
    assert codes(diagnose(fine_tuned(grad), OTHER, frozen=frozen)) == []


def test_without_a_sign_of_a_freeze_they_are():
    assert codes(diagnose(fine_tuned(grad=True), OTHER)) != []


def test_a_model_without_gradients_at_all_is_no_frozen_part_of_one():
    model = fine_tuned(grad=False).requires_grad_(False)
    assert codes(diagnose(model, OTHER)) != []


def test_a_fix_of_another_layer_leaves_it_alone():
    model = fine_tuned(grad=False)
    for child in list(model)[6:]:
        child.requires_grad_(True)
    model[7].running_mean.fill_(torch.nan)
    report = diagnose(model, OTHER)
    assert "BN002" in codes(report)
    fixed, done = report.fix(model, consent=("BN002", "BN027", "BN008"))
    for name in ("1", "4"):
        assert torch.equal(fixed.get_submodule(name).running_mean, model.get_submodule(name).running_mean)
    assert bool(torch.isfinite(fixed[7].running_mean).all())
    assert [finding.code for finding in done.remaining if finding.severity != "info"] == []
