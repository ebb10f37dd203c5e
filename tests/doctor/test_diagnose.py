"""A rule that fails is not checked, hides no other, and says why; data that do not fit are an error."""

import pytest

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, rows, trained

RULES = "batchnorm.doctor.rules"


def broken(*_):
    raise IndexError("index 9\nis out of bounds")


def test_a_check_that_fails(monkeypatch, rules_may_fail):
    monkeypatch.setattr(f"{RULES}.bn012_momentum_never_converges.check", broken)
    model = trained()
    model[1].reset_running_stats()
    report = diagnose(model, rules=["BN001", "BN012"])
    assert report.codes == ("BN001",)
    assert report.skipped == {"BN012": "IndexError: index 9 is out of bounds"}
    assert "not checked: 1 rule (IndexError: index 9 is out of bounds)" in str(report)


def test_a_confirmation_that_fails_leaves_a_suspicion(monkeypatch, rules_may_fail):
    monkeypatch.setattr(f"{RULES}.bn001_stats_never_updated.confirm", broken)
    model = trained()
    model[1].reset_running_stats()
    report = diagnose(model, batches(), rules=["BN001"])
    assert [(finding.code, finding.state) for finding in report.findings] == [("BN001", "suspected")]
    assert report.skipped == {"BN001": "IndexError: index 9 is out of bounds"}


@pytest.mark.parametrize("rule", ["BN019", "BN027", "BN032"])
def test_data_that_do_not_fit_are_the_owners_fault(rule, rules_may_fail):
    with pytest.raises(ValueError, match="diagnose: loader expected one batch or more, got none"):
        diagnose(trained(), [], rules=[rule])
    if rule != "BN032":  # which looks at the first batch only, by ways of its own
        with pytest.raises(ValueError, match="diagnose: loader expected batches that the model takes, got "):
            diagnose(trained(), rows(), rules=[rule])


def test_a_loader_that_fails_is_the_owners_fault(rules_may_fail):
    def read():
        yield from batches(number=3)
        raise FileNotFoundError("image 97")

    class Loader:
        def __iter__(self):
            return read()

    with pytest.raises(FileNotFoundError, match="image 97"):
        diagnose(trained(), Loader())


def test_a_comparison_of_sizes_that_fails_leaves_both(monkeypatch, rules_may_fail):
    monkeypatch.setattr(f"{RULES}.bn027_train_eval_gap.explained", broken)
    model = trained()
    model[1].reset_running_stats()
    report = diagnose(model, batches(), rules=["BN001", "BN027"])
    assert set(report.codes) == {"BN001", "BN027"}
    assert report.skipped == {"BN027": "IndexError: index 9 is out of bounds"}


def test_an_iterator_is_read_once():
    one, other = (diagnose(trained(momentum=0.02), data) for data in (iter(batches()), batches()))
    assert one.findings == other.findings
    assert one.codes == ("BN012",)
    assert one.batches == other.batches == 20


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((trained(), None, {"batches": 0}), "diagnose: batches expected 1 or more, got 0"),
        ((3, None, {}), "diagnose: model expected a module, a state dict or an exported program, got int"),
        ((trained(), 3, {}), "diagnose: loader expected an iterable of batches, got int"),
    ],
)
def test_what_cannot_be_diagnosed_is_said(given, message):
    model, loader, settings = given
    with pytest.raises(ValueError, match=message):
        diagnose(model, loader, **settings)
