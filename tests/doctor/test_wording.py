"""``print(report)`` is what the terminal shows."""

from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained


def test_a_report_is_printed_in_words():
    report = diagnose(nn.Sequential(nn.BatchNorm1d(2, momentum=0.99), nn.BatchNorm1d(2, momentum=0.9)))
    lines = str(report).splitlines()
    assert lines[0] == "warn BN011 momentum-convention (suspected) in 0, 1"
    assert lines[1].startswith("  momentum 0.99 is the weight of the new batch here")
    assert lines[2] == "  evidence: momentum 0.99"
    assert lines[3].startswith("  fix (consent): momentum 0.01; batchnorm.recalibrate")
    assert lines[-1].startswith("2 batch-norm layers, 0 training batches: 2 warn, 1 info; not checked: ")
    assert "Finding(" not in str(report)


def test_layers_beyond_the_fourth_are_counted():
    report = diagnose(nn.Sequential(*[nn.BatchNorm1d(2, momentum=0.99) for _ in range(6)]))
    assert str(report).splitlines()[0].endswith("in 0, 1, 2, 3 and 2 more")


def test_the_explanation_stands_between_findings_and_sum():
    model = trained()
    model[1].reset_running_stats()
    report = diagnose(model, batches())
    words = str(report)
    assert words.index("BN001") < words.index(report.explanation) < words.index("3 batch-norm layers, 20 ")


def test_a_healthy_network_is_one_line():
    assert str(diagnose(trained(), batches())).startswith(
        "3 batch-norm layers, 20 training batches: no findings"
    )
