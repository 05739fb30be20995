"""Depthwise-separable convolutions of stride 2, pooled by mean and maximum: a head that sees neighbourhoods and costs little.

Each block is a 3×3 convolution of every channel by itself, which halves the map, and a 1×1 convolution that mixes the
channels (Howard et al. 2017), with BatchNorm and ReLU after each.
"""

from __future__ import annotations

import torch
from torch import nn

# filters: output channels of each block. blocks: how many; each halves the map, rounding up.
OPTIONS = {"filters": 256, "blocks": 2}
RANGES = {"filters": "[1, inf)", "blocks": "[1, inf)"}


class SeparablePooling(nn.Module):
    """(B, C, H, W) float32 → (B, 2·filters)."""

    def __init__(self, channels: int, filters: int, blocks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs in [channels] + [filters] * (blocks - 1):
            layers += [nn.Conv2d(inputs, inputs, 3, stride=2, padding=1, groups=inputs, bias=False), nn.BatchNorm2d(inputs)]
            layers += [nn.ReLU(), nn.Conv2d(inputs, filters, 1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
        self.blocks = nn.Sequential(*layers)
        self.width = 2 * filters

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        features = self.blocks(feature_map).flatten(2)
        return torch.cat((features.mean(2), features.amax(2)), dim=1)


def build(channels: int, height: int, width: int, filters: int, blocks: int) -> nn.Module:
    """The head for maps of (channels, height, width)."""
    return SeparablePooling(channels, filters, blocks)
