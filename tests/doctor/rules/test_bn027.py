import pytest

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, train, trained


def shifted(by):
    """One layer's running mean is off by so many standard deviations."""
    model = trained()
    model[4].running_mean += by * model[4].running_var.sqrt()
    return model


@pytest.mark.parametrize(
    ("by", "size", "severity"), [(0.2, 4, "info"), (0.2, 32, "info"), (0.6, 4, "warn"), (0.8, 32, "error")]
)
def test_fires_by_the_size_of_the_gap(by, size, severity, whole):
    report = diagnose(shifted(by), batches(size))
    assert [(f.code, f.layer, f.severity) for f in report.findings] == [("BN027", "4", severity)]
    whole(report)


@pytest.mark.parametrize("size", [2, 8, 64])
def test_is_silent_on_a_healthy_network(size):
    data = batches(size, 1280 // size)
    report = diagnose(train(fresh(), data, 2 if size < 64 else 8), data)
    assert "BN027" not in report.codes
    for layer in report.layers:
        assert 0.8 < layer.own < 1.4


def test_is_silent_on_a_later_layer_that_only_sees_an_earlier_ones_fault():
    report = diagnose(shifted(0.8), batches())
    ratios = {layer.layer: (layer.own, layer.prediction) for layer in report.layers}
    assert ratios["7"][0] < 1.4 < ratios["7"][1]


def test_the_gap_is_that_of_the_outputs():
    """The closed form against outputs of the layer."""
    import torch
    from torch import nn

    from batchnorm.doctor.gap import gap_of
    from batchnorm.doctor.layers import layers_of_model
    from batchnorm.doctor.patient import Patient
    from batchnorm.doctor.settings import Settings

    layer = nn.BatchNorm2d(3, affine=False).double()
    layer.running_mean.copy_(torch.tensor([0.5, -1.0, 2.0]))
    layer.running_var.copy_(torch.tensor([2.0, 0.5, 1.0]))
    data = [torch.randn(16, 3, 4, 4, dtype=torch.float64) * 2 + 1 for _ in range(8)]
    patient = Patient(layer, None, data, Settings())
    gap = gap_of(layers_of_model(layer)[0], patient.training.series[""])
    squares = []
    for x in data:
        predicted = layer.eval()(x)
        trained_ = nn.functional.batch_norm(x, None, None, training=True)
        squares.append((predicted - trained_).square().mean((0, 2, 3)))
    assert torch.allclose(gap.gap, torch.stack(squares).mean(0).sqrt(), rtol=1e-9)
