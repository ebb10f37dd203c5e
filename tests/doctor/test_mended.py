"""A rule whose fix was made has nothing more to say of that layer; all rules that mend are here."""

import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from batchnorm.doctor.mend import Repair
from batchnorm.doctor.rule import all_rules
from batchnorm.doctor.settings import Settings
from batchnorm.surgery.copied import copied
from tests.doctor.networks import batches, dense_net, fresh, norms, rows, trained
from tests.doctor.rules import test_bn002 as bn002
from tests.doctor.rules import test_bn003 as bn003
from tests.doctor.rules import test_bn004 as bn004
from tests.doctor.rules import test_bn006 as bn006
from tests.doctor.rules import test_bn007 as bn007
from tests.doctor.rules import test_bn008 as bn008
from tests.doctor.rules import test_bn009 as bn009
from tests.doctor.rules import test_bn011 as bn011
from tests.doctor.rules import test_bn012 as bn012
from tests.doctor.rules import test_bn014 as bn014
from tests.doctor.rules import test_bn015 as bn015
from tests.doctor.rules import test_bn016 as bn016
from tests.doctor.rules import test_bn017 as bn017
from tests.doctor.rules import test_bn021 as bn021
from tests.doctor.rules import test_bn027 as bn027
from tests.doctor.rules import test_bn033 as bn033
from tests.doctor.rules import test_bn034 as bn034
from tests.doctor.rules import test_bn035 as bn035
from tests.doctor.rules import test_bn036 as bn036
from tests.doctor.rules import test_bn037 as bn037
from tests.doctor.test_fix import never_updated
from tests.doctor.test_size_of_causes import DATA, dropped

MAPS = torch.randn(20, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def fractional():
    model = trained()
    for norm in norms(model):
        norm.num_batches_tracked = norm.num_batches_tracked.float()
    return model


def still():
    """Momentum 0, so that the statistics never moved."""
    model = dense_net(8, momentum=0.0)
    nn.init.normal_(model[1].weight, 1.0, 0.5)
    return model


def of_other_eps():
    model = trained()
    model[4].eps = 1.23456e-3  # more digits than evidence has
    return model


def under_another_name():
    model, file = bn007.under_another_name()
    return model, batches(), {"checkpoint": file}


def frozen_update_bn():
    model = trained()
    model[4].eval()
    return model


# Model, data and settings.
SICK = {
    "BN001": [lambda: (never_updated(), batches(), {})],
    "BN002": [lambda: (bn002.poisoned(), batches(), {})],
    "BN003": [lambda: (bn003.outlier(), batches(), {})],
    "BN004": [lambda: (bn004.dead(), rows(), {})],
    "BN005": [
        lambda: (trained().bfloat16(), [(x.bfloat16(), y) for x, y in batches()], {}),
        lambda: (trained().half(), None, {}),
    ],
    "BN006": [lambda: (bn006.averaging(), [row + 5 for row in rows()], {}), lambda: (fractional(), None, {})],
    "BN007": [under_another_name],
    "BN008": [lambda: (bn008.merged(), batches(), {})],
    "BN009": [
        lambda: (bn009.averaged(), batches(), {"rules": ["BN009"]}),
        *(
            lambda r=r: (trained(), batches(), {"averaging": r})
            for r in ("parameters", "update_bn", "clients")
        ),
        lambda: (frozen_update_bn(), batches(), {"averaging": "update_bn"}),
    ],
    "BN011": [lambda: (bn011.ported(), rows(16), {}), lambda: (dense_net(momentum=1.0), rows(16), {})],
    "BN012": [lambda: (bn012.lagging(), batches(), {}), lambda: (still(), rows(), {"rules": ["BN012"]})],
    "BN013": [
        lambda: (of_other_eps(), batches(), {}),
        lambda: (trained(), batches(), {"source_eps": 1.23456e-3}),
        lambda: (trained(), batches(), {"source_eps": {"4": 1.23456e-3}}),
    ],
    "BN014": [lambda: (bn014.untracked(), batches(), {}), lambda: (bn014.untracked().eval(), batches(), {})],
    "BN015": [lambda: (bn015.flipped(), batches(), {}), lambda: (bn015.flipped().eval(), batches(), {})],
    "BN016": [lambda: (bn016.biased(), list(MAPS), {})],
    "BN017": [
        lambda: (bn017.drawn(0.0, 0.02), rows(width=64), {}),
        lambda: (bn017.drawn(0.0, 1.0), None, {}),
    ],
    "BN021": [
        lambda: (bn021.before(), bn021.DATA, {}),
        lambda: (bn021.before().eval(), bn021.DATA, {}),
        lambda: (dropped(), DATA, {}),
    ],
    "BN027": [lambda: (bn027.shifted(0.8), batches(), {}), lambda: (bn027.shifted(0.2), batches(), {})],
    "BN033": [
        lambda: (bn033.frozen("4"), batches(), {}),
        lambda: (trained(), batches(), {"frozen": ["4", "7"]}),
    ],
    "BN034": [lambda: (bn034.frozen(fresh()), batches(), {})],
    "BN035": [lambda: (bn035.Distilled(True), batches(seed=10), {})],
    "BN036": [lambda: (bn036.made_in_inference_mode(), None, {})],
    "BN037": [lambda r=r: (bn037.Checkpointed(r), batches(), {}) for r in (True, False)],
}


def cases():
    return [pytest.param(c, make, id=f"{c}-{n}") for c, made in SICK.items() for n, make in enumerate(made)]


def test_no_rule_that_mends_is_left_out():
    assert [code for code, rule in sorted(all_rules().items()) if rule.mend] == list(SICK)


@pytest.mark.parametrize(("code", "make"), cases())
def test_a_second_diagnosis_does_not_find_again_what_was_mended(code, make):
    model, loader, settings = make()
    report = diagnose(model, loader, **settings)
    _, done = report.fix(model, consent=[code])
    layers = {one.finding.layer for one in done.mended if one.finding.code == code and one.done}
    assert layers
    assert not [f for f in done.remaining if f.code == code and f.layer in layers]


def refuses(code, make):
    """Whether a fix wants data and says so where there are none."""
    model, loader, settings = make()
    finding = next(f for f in diagnose(model, loader, **settings).findings if f.code == code)
    kept = {key: value for key, value in settings.items() if key != "rules"}
    try:
        all_rules()[code].mend(Repair(copied("fix", model), None, Settings(**kept)), finding)
    except ValueError as error:
        return "expected training data to measure statistics on" in str(error)
    return False


@pytest.mark.parametrize("code", list(SICK))
def test_a_rule_says_whether_its_fix_measures(code):
    assert any(refuses(code, make) for make in SICK[code]) == all_rules()[code].measures
