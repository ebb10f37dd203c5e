"""``print(report)`` is what the terminal shows."""

import dataclasses

from torch import nn

from batchnorm.doctor import diagnose
from batchnorm.records import Finding, Fix
from tests.doctor.networks import batches, trained


def layers(*momenta):
    return nn.Sequential(*[nn.BatchNorm1d(2, momentum=momentum) for momentum in momenta])


def test_a_report_is_printed_in_words():
    report = diagnose(layers(0.99, 0.99))
    lines = str(report).splitlines()
    assert lines[0] == "warn BN011 momentum-convention (suspected) in 0, 1"
    assert lines[1].startswith("  momentum 0.99 is the weight of the new batch here")
    assert lines[2] == "  evidence: momentum 0.99"
    assert lines[3].startswith("  fix (consent): momentum 0.01; batchnorm.recalibrate")
    assert lines[-1].startswith("2 batch-norm layers, 0 training batches: 2 warn, 1 info; not checked: ")
    assert "Finding(" not in str(report)


def test_layers_beyond_the_fourth_are_counted():
    report = diagnose(layers(*[0.99] * 6))
    assert str(report).splitlines()[0].endswith("in 0, 1, 2, 3 and 2 more")


def test_what_is_said_is_true_of_all_layers_that_are_named():
    lines = str(diagnose(layers(0.9, 0.99, 0.9), rules=["BN011"])).splitlines()
    assert [lines[0], lines[4]] == [
        "warn BN011 momentum-convention (suspected) in 0, 2",
        "warn BN011 momentum-convention (suspected) in 1",
    ]
    assert [lines[2], lines[6]] == ["  evidence: momentum 0.9", "  evidence: momentum 0.99"]
    assert "fix (consent): momentum 0.1;" in lines[3]
    assert "fix (consent): momentum 0.01;" in lines[7]


def test_of_many_layers_with_numbers_of_their_own_three_are_shown():
    lines = str(diagnose(layers(*[0.9 + number / 100 for number in range(9)]), rules=["BN011"])).splitlines()
    assert [line for line in lines if line.startswith("warn")] == [
        *(f"warn BN011 momentum-convention (suspected) in {number}" for number in range(3)),
        "warn BN011 momentum-convention also in 3, 4, 5, 6 and 2 more",
    ]
    assert len(lines) == 3 * 4 + 1 + 2


def test_what_is_true_of_most_layers_is_among_the_three():
    lines = str(diagnose(layers(0.6, 0.7, 0.8, 0.9, 0.9), rules=["BN011"])).splitlines()
    assert lines[0].endswith(" in 3, 4")
    assert lines[12].endswith(" also in 2")


def finding(layer, **evidence):
    return Finding("BN099", "made-up", "info", layer, "It is.", evidence, Fix("advice", "none"))


def printed(*findings):
    report = dataclasses.replace(diagnose(nn.BatchNorm1d(2)), findings=findings)
    return str(report).splitlines()


def test_evidence_that_differs_is_a_range_or_a_list():
    found = [finding("a", most=3.0, of_layer="x", alone=1.0), finding("b", most=0.25, of_layer="y")]
    assert printed(*found)[2] == "  evidence: most 0.25 to 3, of layer x, y"
    assert printed(finding("a", most="inf"), finding("b", most=2.0))[2] == "  evidence: most inf, 2"


def test_counts_have_no_fraction():
    found = finding("a", count=0.0, parameters=4.0, pixels=1281000.0, share=0.125, least=1e-12)
    assert printed(found)[2] == (
        "  evidence: count 0, parameters 4, pixels 1281000, share 0.125, least 1e-12"
    )


def test_a_module_in_a_sentence_is_called_a_layer():
    def pair():
        return nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU()

    words = str(diagnose(nn.Sequential(*pair(), *pair())))
    assert "BN016 bias-before-bn (found) in 1, 4\n  The bias of the layer right before it has" in words
    assert "  evidence: bias of layer 0, 3\n" in words


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
