"""Prototypes of neighbourhoods: a 3×3 convolution of every channel by itself in front of prototype pooling.

Prototype pooling (`prototype.py`) compares single locations, and so cannot tell one arrangement of the same locations from
another. Here a location stands for its 3×3 neighbourhood, for 9 multiply-adds a channel; with stride 2 there is a quarter
as many of them to compare.
"""

from __future__ import annotations

import torch
from torch import nn

from calex.heads.prototype import PrototypePooling

# prototypes, temperature, assignment: as in `prototype`. stride: of the convolution.
OPTIONS = {"prototypes": 128, "temperature": 1.0, "assignment": "softmax", "stride": 2}
CHOICES = {"assignment": ["softmax", "relu"]}
RANGES = {"prototypes": "[1, inf)", "temperature": "(0, inf)", "stride": "[1, 2]"}


class NeighbourhoodPooling(nn.Module):
    """(B, C, H, W) float32 → (B, 2·M + C)."""

    def __init__(self, channels: int, stride: int, pooling: PrototypePooling) -> None:
        super().__init__()
        self.neighbourhood = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.pooling = pooling
        self.width = pooling.width

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return self.pooling(self.norm(self.neighbourhood(feature_map)).relu())


def build(channels: int, height: int, width: int, stride: int, **options: object) -> nn.Module:
    """The head for maps of (channels, height, width), with the options above."""
    return NeighbourhoodPooling(channels, stride, PrototypePooling(channels, cells=(1, 1), **options))  # type: ignore[arg-type]
