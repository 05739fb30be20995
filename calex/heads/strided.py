"""Strided 3×3 convolutions, pooled by mean and maximum: BoostNet's branch with a second pooling and a free number of blocks.

Each block is a 3×3 convolution of stride 2 with BatchNorm and ReLU, which halves the map.
"""

from __future__ import annotations

import torch
from torch import nn

from calex.heads.separable import MeanAndMaximum, channels_last

# filters: channels of each convolution. blocks: how many convolutions.
OPTIONS = {"filters": 64, "blocks": 2}
RANGES = {"filters": "[1, inf)", "blocks": "[1, inf)"}


class StridedMeanAndMaximum(nn.Sequential):
    """(B, C, H, W) float32 → (B, 2·filters)."""

    def __init__(self, channels: int, filters: int, blocks: int) -> None:
        layers: list[nn.Module] = []
        for inputs in [channels] + [filters] * (blocks - 1):
            layers += [
                nn.Conv2d(inputs, filters, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(filters),
                nn.ReLU(inplace=True),
            ]
        super().__init__(*layers, MeanAndMaximum((1, 1)))
        self.width = 2 * filters

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return super().forward(channels_last(feature_map))


def build(channels: int, height: int, width: int, filters: int, blocks: int) -> nn.Module:
    """The head for maps of (channels, height, width)."""
    return StridedMeanAndMaximum(channels, filters, blocks)
