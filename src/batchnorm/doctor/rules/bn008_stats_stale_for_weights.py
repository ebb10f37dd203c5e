"""The running statistics belong to other weights than the layer has now.

Averaging, merging, pruning or editing weights makes a network whose statistics nobody measured; with momentum
None the mean of a whole training holds weights of long ago. Many layers are off at once, each by an ordinary
amount.

Found by: half of the layers or more have a gap of 4 times what sampling explains, all layers together 0.35
standard deviations beyond it, and no earlier cause was found. Without data, if the live model is given as
``averaged_from``: its statistics are these to the bit, while the weights differ.

Severity: warn from a ratio of 4, error from 8.

Fix: measure the statistics on training data, with the final weights.

Mistaken for it: a key encoder that always runs in training mode, whose statistics prediction never reads;
frozen pretrained statistics on new data, which is BN030; data that are not those of the training, as real
images alone for a discriminator that also saw generated ones.

Reports: TE-10, EM-01, EM-02, EM-06, EM-07, EM-08, EM-09, EM-12, AP-02; trap EM-05.
"""

from collections.abc import Callable, Iterator

import torch
from torch import nn

from batchnorm.doctor.gap import Gaps
from batchnorm.doctor.judge import ERROR_RATIO, covers, gravity
from batchnorm.doctor.mend import RECALIBRATE, Repair
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import consent, found
from batchnorm.records import Finding

EVIDENCE = "S"
RANK = 11
FIXES = ("consent",)
MEASURES = True
EXPLAINED_BY = (
    "BN001",
    "BN002",
    "BN003",
    "BN005",
    "BN007",
    "BN012",
    "BN013",
    "BN015",
    "BN026",
    "BN033",
    "BN034",
    "BN037",
)

MANY = 2  # layers; one alone is BN027


def check(patient: Patient) -> Iterator[Finding]:
    """The gaps of all layers at once, and the statistics of the live model."""
    if patient.has_enough:
        ratios = _off(patient, patient.gaps)
        if ratios:
            yield found(
                _severity(ratios),
                None,
                f"{len(ratios)} of {len(patient.gaps)} layers hold statistics that do not fit: they were "
                "measured with other weights (averaged, merged, pruned or edited since; or long ago, where "
                "momentum is small or None), or on other data than these.",
                consent(RECALIBRATE),
                {"layers": float(len(ratios)), "gap_ratio": _middle(ratios)},
            )
        return
    live = patient.settings.averaged_from
    assert patient.model is not None
    if live is not None and _copied(patient.model, live):
        yield found(
            "warn",
            None,
            "The statistics are those of the live model to the bit, but the weights are averaged ones: "
            "nobody measured the statistics of this model.",
            consent(RECALIBRATE),
        )


def explained(patient: Patient, finding: Finding, cause: Finding, left: Callable[[], Gaps]) -> bool:
    """By what would leave few layers off, or little; without data nothing was measured to compare with."""
    whole = finding.evidence.get("gap_ratio")
    ratios = [] if whole is None else _off(patient, left())
    return not ratios or covers(cause, float(whole or 0), _middle(ratios), _severity(ratios))


def mend(repair: Repair, finding: Finding) -> str:
    """Measure all of them."""
    return repair.recalibrate(None)


def _off(patient: Patient, gaps: Gaps) -> list[float]:
    """Ratios of the layers that are off, in order; empty if they are too few."""
    ratios = sorted(gap.ratio for gap in gaps.values() if gravity(patient, gap) not in (None, "info"))
    return ratios if len(ratios) >= max(MANY, len(patient.gaps) / 2) else []


def _middle(ratios: list[float]) -> float:
    return ratios[len(ratios) // 2]


def _severity(ratios: list[float]) -> str:
    return "error" if _middle(ratios) >= ERROR_RATIO else "warn"


def _copied(model: nn.Module, live: nn.Module) -> bool:
    buffers, theirs = dict(model.named_buffers()), dict(live.named_buffers())
    parameters, other = dict(model.named_parameters()), dict(live.named_parameters())
    means = [key for key in buffers if key.endswith("running_mean") and key in theirs]
    return (
        bool(means)
        and all(torch.equal(buffers[key], theirs[key]) for key in means)
        and any(key in other and not torch.equal(value, other[key]) for key, value in parameters.items())
    )
