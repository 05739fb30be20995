"""Families of torchvision's networks, made small for images of 16 pixels; `families.yaml` names them as a user's own."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn

from calex.backbones.vision import models


def vit(classes: int) -> nn.Module:
    return models.VisionTransformer(
        image_size=16, patch_size=4, num_layers=4, num_heads=2, hidden_dim=32, mlp_dim=64, num_classes=classes
    )


class Deit(nn.Module):
    """A transformer with a class token and a distillation token, whose two answers are averaged (Touvron et al. 2021)."""

    def __init__(self, classes: int, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, 2, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 18, width) * 0.02)
        self.blocks = nn.Sequential(
            *(nn.TransformerEncoderLayer(width, 2, 64, 0.0, "gelu", batch_first=True, norm_first=True) for _ in range(4))
        )
        self.head, self.distilled = nn.Linear(width, classes), nn.Linear(width, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        grid = self.patches(images).flatten(2).transpose(1, 2)
        read = self.blocks(torch.cat([self.tokens.expand(len(images), -1, -1), grid], 1) + self.positions)
        return (self.head(read[:, 0]) + self.distilled(read[:, 1])) / 2


def deit(classes: int) -> nn.Module:
    return Deit(classes)


def swin(classes: int) -> nn.Module:
    return models.SwinTransformer(
        patch_size=[2, 2], embed_dim=16, depths=[2, 2, 2], num_heads=[2, 2, 2], window_size=[2, 2], num_classes=classes,
        stochastic_depth_prob=0.0,
    )  # fmt: skip


def mobilenet_v3(classes: int) -> nn.Module:
    from torchvision.models.mobilenetv3 import InvertedResidualConfig as Block

    blocks = [
        Block(16, 3, 16, 16, True, "RE", 1, 1, 1.0), Block(16, 3, 48, 24, False, "RE", 2, 1, 1.0),
        Block(24, 5, 64, 40, True, "HS", 2, 1, 1.0), Block(40, 5, 96, 40, True, "HS", 1, 1, 1.0),
    ]  # fmt: skip
    normalisation = partial(nn.BatchNorm2d, momentum=0.1)  # theirs of 0.01 is for more steps than a test has
    return models.MobileNetV3(blocks, last_channel=64, num_classes=classes, dropout=0.0, norm_layer=normalisation)


def densenet(classes: int) -> nn.Module:
    return models.DenseNet(growth_rate=8, block_config=(2, 2, 2), num_init_features=16, num_classes=classes)


def efficientnet(classes: int) -> nn.Module:
    from torchvision.models.efficientnet import MBConvConfig as Block

    blocks = [Block(1, 3, 1, 16, 16, 1), Block(4, 3, 2, 16, 24, 1), Block(4, 5, 2, 24, 40, 1)]
    return models.EfficientNet(blocks, dropout=0.0, stochastic_depth_prob=0.0, num_classes=classes, last_channel=64)


def convnext(classes: int) -> nn.Module:
    from torchvision.models.convnext import CNBlockConfig as Block

    return models.ConvNeXt([Block(16, 24, 1), Block(24, 32, 1), Block(32, None, 1)], num_classes=classes)


def three_maps(classes: int) -> nn.Module:
    """A network with three places at which a branch could save anything."""
    convolutions = [
        part
        for inputs in (3, 8, 8, 8)
        for part in (nn.Conv2d(inputs, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
    ]
    return nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))
