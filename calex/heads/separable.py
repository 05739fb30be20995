"""Depthwise-separable convolutions of stride 2, pooled by mean and maximum: a head that sees neighbourhoods and costs little.

Each block is a 3×3 convolution of every channel by itself, which halves the map, and a 1×1 convolution that mixes the
channels (Howard et al. 2017), with BatchNorm and ReLU after each.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from calex.heads._convolutions import Depthwise, Pointwise

# filters: output channels of each block. blocks: how many; each halves the map, rounding up. grid: cells a side that are
# pooled each by itself; a smaller map is kept whole. hidden: units of a layer between pooling and classifier; 0 for none.
OPTIONS = {"filters": 256, "blocks": 2, "grid": 1, "hidden": 0}
RANGES = {"filters": "[1, inf)", "blocks": "[1, inf)", "grid": "[1, inf)", "hidden": "[0, inf)"}


class MeanAndMaximum(nn.Module):
    """(B, C, H, W) float32 → (B, 2·C·cells): mean and maximum of each cell."""

    def __init__(self, cells: tuple[int, int]) -> None:
        super().__init__()
        self.cells = cells

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        if self.cells == (1, 1):
            features = feature_map.flatten(2)
            return torch.cat((features.mean(2), features.amax(2)), dim=1)
        pools = F.adaptive_avg_pool2d(feature_map, self.cells), F.adaptive_max_pool2d(feature_map, self.cells)
        return torch.cat(pools, dim=1).flatten(1)


class SeparablePooling(nn.Sequential):
    """(B, C, H, W) float32 → (B, width)."""

    def __init__(self, channels: int, height: int, width: int, filters: int, blocks: int, grid: int, hidden: int) -> None:
        layers: list[nn.Module] = []
        for inputs in [channels] + [filters] * (blocks - 1):
            layers += [Depthwise(inputs), nn.BatchNorm2d(inputs), nn.ReLU(inplace=True)]
            layers += [Pointwise(inputs, filters), nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]
            height, width = (height + 1) // 2, (width + 1) // 2
        cells = min(grid, height), min(grid, width)
        pooled = 2 * filters * cells[0] * cells[1]
        layers += [MeanAndMaximum(cells)]
        if hidden:
            layers += [nn.Linear(pooled, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True)]
        super().__init__(*layers)
        self.width = hidden or pooled

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return super().forward(channels_last(feature_map))


def channels_last(feature_map: torch.Tensor) -> torch.Tensor:
    """Lay a map out by place on a CPU, where convolutions of single channels and BatchNorm then take half as long."""
    on_cpu = feature_map.device.type == "cpu"
    return feature_map.contiguous(memory_format=torch.channels_last) if on_cpu else feature_map


def build(channels: int, height: int, width: int, **options: int) -> nn.Module:
    """The head for maps of (channels, height, width), with the options above."""
    return SeparablePooling(channels, height, width, **options)
