import json
import math

import pytest

from batchnorm.records import Finding, Fix


def finding(**changes):
    fields = {"code": "BN002", "name": "stats-not-finite", "severity": "error", "layer": "norm"}
    return Finding(**fields, message="...", evidence={}, fix=None, **changes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: finding(state="guessed"), "finding: state expected one of found, .*, got 'guessed'"),
        (lambda: Fix("magic", "wave"), "finding: kind of fix expected one of .*, got 'magic'"),
    ],
)
def test_a_word_that_nobody_knows_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_evidence_that_is_not_finite_becomes_a_word():
    one = Finding("BN002", "stats-not-finite", "error", "norm", "...", {"var": math.inf, "mean": 1.5}, None)
    assert json.loads(json.dumps(one.to_dict(), allow_nan=False))["evidence"] == {"var": "inf", "mean": 1.5}
