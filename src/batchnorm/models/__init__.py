"""Networks for the textbook's images, with or without batch normalization."""

from batchnorm.models.build import MODELS, build
from batchnorm.models.lenet import LeNet
from batchnorm.models.norms import NORMS, NormAct, Norms, norm_sites
from batchnorm.models.resnet import ResNet

__all__ = ["MODELS", "NORMS", "LeNet", "NormAct", "Norms", "ResNet", "build", "norm_sites"]
