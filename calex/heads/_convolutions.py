"""Convolutions of one place or of one channel, in the form in which a CPU learns them fastest.

Over a map laid out by place (channels last) a 1×1 convolution is one product of two matrices, and a 3×3 convolution that has a
single place to answer for is a weighted sum of the map. Written so, their gradients take a half to a hundredth of the time
that a convolution's take. A branch that answers keeps the convolutions, as which it is exported.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class Pointwise(nn.Conv2d):
    """A 1×1 convolution without bias: (B, C, H, W) → (B, filters, H, W)."""

    def __init__(self, channels: int, filters: int) -> None:
        super().__init__(channels, filters, 1, bias=False)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        if not _learns_on_cpu(self, feature_map):
            return super().forward(feature_map)
        return F.linear(feature_map.permute(0, 2, 3, 1), self.weight.flatten(1)).permute(0, 3, 1, 2)


class Depthwise(nn.Conv2d):
    """A 3×3 convolution of each channel by itself, of stride 2, without bias: (B, C, H, W) → (B, C, ⌈H/2⌉, ⌈W/2⌉)."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False)

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        height, width = feature_map.shape[2:]
        if not _learns_on_cpu(self, feature_map) or max(height, width) > 2:
            return super().forward(feature_map)
        # The kernel stands on the first place of the map; what lies left of it and above is padding.
        weights = self.weight[:, 0, 1 : 1 + height, 1 : 1 + width].permute(1, 2, 0).contiguous()
        return (feature_map.permute(0, 2, 3, 1) * weights).sum((1, 2), keepdim=True).permute(0, 3, 1, 2)


def _learns_on_cpu(module: nn.Module, feature_map: torch.Tensor) -> bool:
    return module.training and feature_map.device.type == "cpu"
