"""Networks of other people, small, with random weights and statistics."""

import torch
from torch import nn

from batchnorm.surgery.layers import BatchNorm

__all__ = ["ARCHITECTURES", "build"]


def pytorchcv(name, side=32):
    def make():
        from pytorchcv.model_provider import get_model

        model = get_model(name)
        model.features.final_pool = nn.AdaptiveAvgPool2d(1)  # theirs is for images of 224 x 224
        return model, torch.randn(4, 3, side, side)

    return make


def transformers(name, input, **options):
    """A model of the family ``name``, as its configuration builds it, and its input."""

    def make():
        import transformers

        config = getattr(transformers, f"{name}Config")(**options)
        return getattr(transformers, f"{name}Model")(config), {
            key: torch.randn(shape) for key, shape in input.items()
        }

    return make


IMAGES = {
    "pixel_values": (4, 3, 32, 32)
}  # two images would leave two values a channel, whose gradient is all rounding
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16, 16, 32], "depths": [1, 2, 1, 1]}
ARCHITECTURES = {
    "pytorchcv resnet18_wd4": pytorchcv("resnet18_wd4"),
    "pytorchcv preresnet18_wd4": pytorchcv("preresnet18_wd4"),
    "pytorchcv densenet121": pytorchcv("densenet121"),
    "pytorchcv mobilenetv2_wd4": pytorchcv("mobilenetv2_wd4"),
    "pytorchcv shufflenetv2_wd2": pytorchcv("shufflenetv2_wd2"),
    "transformers ResNet": transformers("ResNet", IMAGES, **STAGES),
    "transformers RegNet": transformers("RegNet", IMAGES, **STAGES, groups_width=8),
    "transformers MobileNetV1": transformers("MobileNetV1", IMAGES, depth_multiplier=0.25),
    "transformers MobileNetV2": transformers("MobileNetV2", IMAGES, depth_multiplier=0.25),
    "transformers EfficientNet": transformers(
        "EfficientNet", IMAGES, width_coefficient=0.25, depth_coefficient=0.5, hidden_dim=320
    ),
    "transformers Levit": transformers(
        "Levit",
        {"pixel_values": (2, 3, 64, 64)},
        image_size=64,
        hidden_sizes=[16, 24, 32],
        num_attention_heads=[2, 3, 4],
        key_dim=[8, 8, 8],
        depths=[1, 1, 1],
    ),
}


def build(name):
    """A network in float64 and keyword arguments or a tensor to run it on."""
    torch.manual_seed(0)
    model, example = ARCHITECTURES[name]()
    for layer in model.modules():
        if isinstance(layer, BatchNorm):
            with torch.no_grad():
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 1.5)
                layer.weight.uniform_(0.5, 1.5)
                layer.bias.normal_(0, 0.1)
                layer.num_batches_tracked.random_(1, 9)
    double = (
        {key: value.double() for key, value in example.items()}
        if isinstance(example, dict)
        else example.double()
    )
    return model.double(), double
