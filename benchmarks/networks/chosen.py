"""The networks that are exported: a member of each family, and the side of its images; small ones, where it has any."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NETWORKS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "digits_cnn": (1, 8, 8),
        "cifar_resnet20": (3, 32, 32),
        "cifar_resnet18": (3, 32, 32),
        "cohen_resnet110": (3, 32, 32),
        "torchvision:resnet50": (3, 64, 64),
        "torchvision:densenet121": (3, 64, 64),
        "torchvision:googlenet": (3, 64, 64),
        "torchvision:inception_v3": (3, 96, 96),
        "torchvision:squeezenet1_1": (3, 64, 64),
        "torchvision:mobilenet_v2": (3, 64, 64),
        "torchvision:shufflenet_v2_x0_5": (3, 64, 64),
        "torchvision:efficientnet_b0": (3, 64, 64),
        "torchvision:regnet_y_400mf": (3, 64, 64),
        "torchvision:convnext_tiny": (3, 64, 64),
        "torchvision:swin_t": (3, 64, 64),
        "torchvision:swin_v2_t": (3, 64, 64),
        "torchvision:maxvit_t": (3, 224, 224),
        "timm:levit_128s": (3, 224, 224),
        "timm:xcit_nano_12_p16_224?img_size=64": (3, 64, 64),
        "timm:vit_tiny_patch16_224?img_size=64": (3, 64, 64),
        "timm:deit_tiny_distilled_patch16_224?img_size=64": (3, 64, 64),
        "timm:maxvit_pico_rw_256?img_size=64": (3, 64, 64),
        "timm:coatnet_nano_rw_224?img_size=64": (3, 64, 64),
        "timm:mixer_s32_224?img_size=64": (3, 64, 64),
        "timm:cait_xxs24_224?img_size=64": (3, 64, 64),
        "timm:tf_efficientnet_lite0": (3, 64, 64),
        "timm:mobilenetv3_small_050": (3, 64, 64),
        "timm:resnest14d": (3, 64, 64),
        "timm:repvgg_a0": (3, 64, 64),
        "timm:mobilevit_xxs": (3, 64, 64),
        "timm:pvt_v2_b0": (3, 64, 64),
        "timm:fastvit_t8": (3, 64, 64),
    }
)
"""Reference of each network, and C, H, W of its images."""
