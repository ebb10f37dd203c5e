"""Networks of other people, fresh and after a short training, have neither errors nor warnings."""

import inspect

import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose

SIZE = 32

PYTORCHCV = [
    "resnet20_cifar10",
    "preresnet20_cifar10",
    "seresnet20_cifar10",
    "sepreresnet20_cifar10",
    "diaresnet20_cifar10",
    "diapreresnet20_cifar10",
    "shakeshakeresnet20_2x16d_cifar10",
    "resdropresnet20_cifar10",
    "ror3_56_cifar10",
]
TRANSFORMERS = {
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "Levit": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [1, 2, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
}


class Logits(nn.Module):
    """A network that returns a tensor, for all ways of training."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, images):
        return self.model(pixel_values=images).logits


def data(size=SIZE, number=12, rows=32):
    generator = torch.Generator().manual_seed(0)
    pictures = torch.randn(4, 3, size, size, generator=generator)
    for _ in range(number):
        labels = torch.randint(0, 4, (rows,), generator=generator)
        yield pictures[labels] + torch.randn(rows, 3, size, size, generator=generator), labels


def build(name):
    torch.manual_seed(0)
    if name in TRANSFORMERS:
        transformers = pytest.importorskip("transformers", reason="has some of the networks")
        options = {**TRANSFORMERS[name], "num_labels": 10}
        config = getattr(transformers, f"{name}Config")(**options)
        return Logits(getattr(transformers, f"{name}ForImageClassification")(config)), config
    provider = pytest.importorskip("pytorchcv.model_provider", reason="has most of the networks")
    return provider.get_model(name), None


def grave(report):
    return [(f.code, f.layer, f.message) for f in report.findings if f.severity != "info"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", [*PYTORCHCV, *TRANSFORMERS])
def test_a_sound_network_has_no_errors_or_warnings(name):
    model, config = build(name)
    batches = list(data(getattr(config, "image_size", SIZE)))
    assert grave(diagnose(model)) == []
    assert grave(diagnose(model, batches)) == []
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9)
    steps = 36
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        images, labels = batches[step % len(batches)]
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    report = diagnose(model, batches, optimizer=optimizer)
    assert grave(report) == []
    assert len(report.layers) == report.layers_seen > 5


def test_a_network_whose_initializer_draws_the_weight_around_0_is_found():
    """Transformers 5.24 gives EfficientNet's batch norm the convolutions' normal(0, 0.02)."""
    transformers = pytest.importorskip("transformers", reason="has the network")
    config = transformers.EfficientNetConfig(width_coefficient=0.25, depth_coefficient=0.25, image_size=SIZE)
    report = diagnose(transformers.EfficientNetForImageClassification(config))
    drawn = "nn.BatchNorm2d)):" in inspect.getsource(transformers.models.efficientnet.modeling_efficientnet)
    assert {f.code for f in report.findings if f.severity != "info"} == ({"BN017"} if drawn else set())
