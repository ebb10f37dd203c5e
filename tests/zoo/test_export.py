"""Networks of other people give the same in onnxruntime."""

import pytest
import torch

from batchnorm.surgery import export
from tests.zoo.architectures import build, settle

for package in ("pytorchcv", "transformers", "onnxruntime", "onnxscript"):
    pytest.importorskip(package, reason="pip install --group zoo, and 'batchnorm[onnx]'")
pytestmark = [
    pytest.mark.zoo,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.mark.parametrize(
    "name",
    ["resnet18", "preresnet18", "mobilenetv2_w1", "shufflenetv2_w1", "densenet121", "transformers Levit"],
)
def test_onnx_of_a_network_gives_what_the_network_gave(name, tmp_path):
    model, size = build(name)
    settle(model, size)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    report = export(model, images, tmp_path / "model.onnx")
    assert report.inputs == 2
    assert 0 < report.difference <= 1e-4
