"""Networks for the textbook's images, with or without batch normalization."""

from batchnorm.models.build import MODELS, build
from batchnorm.models.lenet import LeNet
from batchnorm.models.norm import NORMS, NormAct, NormFactory, norm_factory, norm_sites
from batchnorm.models.resnet import ResNet

__all__ = [
    "MODELS",
    "NORMS",
    "LeNet",
    "NormAct",
    "NormFactory",
    "ResNet",
    "build",
    "norm_factory",
    "norm_sites",
]
