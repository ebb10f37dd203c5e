"""Networks of other people, with random weights and statistics as after some training.

pytorchcv names a network by its string; those of transformers are built small, from a configuration.
"""

import importlib
import warnings

import torch
from torch import nn

__all__ = ["ARCHITECTURES", "build", "settle"]

PYTORCHCV = """
resnet18 resnetbc26b preresnet18 preresnetbc26b resnext14_16x4d seresnet18 sepreresnet18 seresnext50_32x4d
senet16 ibnb_resnet50 ibn_resnet50 cbam_resnet18 bam_resnet18 resnesta18 sknet50 diaresnet18
wrn16_10_cifar10 resnet20_cifar10 ror3_56_cifar10 rir_cifar10 pyramidnet101_a360 densenet121
densenet40_k12_cifar10 peleenet dpn68 vovnet39 hardnet39ds darknet53 dla34 dla46c bn_vgg11b bninception
inceptionv3 inceptionv4 inceptionresnetv2 xception polynet airnet50_1x64d_r2 airnext50_32x4d_r2
hrnet_w18_small_v1 selecsls42 fishnet99 mobilenet_w1 fdmobilenet_w1 mobilenetv2_w1 mobilenetv2b_w1
mobilenetv3_small_w1 mobilenetv3_large_w1 igcv3_w1 mnasnet_b1 mnasnet_a1 proxylessnas_cpu fbnet_cb spnasnet
efficientnet_b0 efficientnet_b0b mixnet_s ghostnet efficientnet_edge_small_b shufflenet_g1_w1
shufflenetv2_w1 shufflenetv2b_w1 menet108_8x1_g3 espnetv2_wd2 revnet38 bagnet9 octresnet10_ad2
msdnet22_cifar10 simplepose_resnet18_coco
""".split()  # noqa: SIM905 -- as a list it would be a page

SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2]}
LEVIT = {"image_size": 64, "hidden_sizes": [16, 32, 48], "num_attention_heads": [2] * 3, "depths": [1] * 3}
MOBILE = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 16, 32], "image_size": 64}
TRANSFORMERS = {
    "ResNet": (SMALL, "ForImageClassification"),
    "RegNet": (SMALL | {"groups_width": 4}, "ForImageClassification"),
    "MobileNetV1": ({"depth_multiplier": 0.25}, "ForImageClassification"),
    "MobileNetV2": ({"depth_multiplier": 0.35}, "ForImageClassification"),
    "Levit": (LEVIT | {"key_dim": [8] * 3}, "ForImageClassification"),
    "MobileViT": (MOBILE, "ForImageClassification"),
    "Cvt": ({"embed_dim": [8, 16, 32], "depth": [1, 2, 3], "num_heads": [1] * 3}, "ForImageClassification"),
    "EfficientNet": ({"hidden_dim": 320, "width_coefficient": 0.25, "depth_coefficient": 0.25}, "Model"),
}

ARCHITECTURES = [*PYTORCHCV, *(f"transformers {name}" for name in TRANSFORMERS)]


def build(name):
    """A network and the size of the images it takes."""
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name.startswith("transformers "):
            package, kind = importlib.import_module("transformers"), name.split()[1]
            options, suffix = TRANSFORMERS[kind]
            return getattr(package, kind + suffix)(getattr(package, f"{kind}Config")(**options)), (64, 64)
        model = importlib.import_module("pytorchcv.model_provider").get_model(name)
    return model, getattr(model, "in_size", (224, 224))


@torch.no_grad()
def settle(model, size):
    """Random scales and shifts; statistics of random images, moved at random; then prediction mode."""
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.weight.copy_(torch.rand(norm.weight.shape, generator=generator) + 0.5)
        norm.bias.copy_(torch.randn(norm.bias.shape, generator=generator) * 0.3)
    model.train()
    model(torch.randn(2, 3, *size, generator=generator))
    for norm in norms:
        shift = torch.randn(norm.running_mean.shape, generator=generator) * 0.3
        norm.running_mean.add_(shift * norm.running_var.sqrt())
        norm.running_var.mul_(torch.rand(norm.running_var.shape, generator=generator) + 0.5)
    return model.eval()
