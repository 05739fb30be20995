"""Zero Time Waste's branch: a 3×3 convolution and SDN's learnt mixture of maximum and average pooling (Wójcik et al. 2021)."""

from __future__ import annotations

import torch
from torch import nn

from calex.heads.sdn import MixedPooling

# pool: cells a side that are kept; a smaller map is kept whole.
OPTIONS = {"pool": 4}
RANGES = {"pool": "[1, inf)"}


class ConvolutionMixedPooling(MixedPooling):
    """(B, C, H, W) float32 → (B, C·cells)."""

    def __init__(self, channels: int, cells: tuple[int, int]) -> None:
        super().__init__(channels, cells)
        self.convolution = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return super().forward(self.convolution(feature_map).relu())


def build(channels: int, height: int, width: int, pool: int) -> nn.Module:
    """The head for maps of (channels, height, width), pooled to at most `pool` × `pool`."""
    return ConvolutionMixedPooling(channels, (min(pool, height), min(pool, width)))
