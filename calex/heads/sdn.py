"""SDN's branch: a learnt mixture of maximum and average pooling to a small grid (Kaya et al. 2019).

α·max + (1 − α)·average of each cell, flattened for the linear classifier.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

# pool: cells a side that are kept; a smaller map is kept whole.
OPTIONS = {"pool": 4}
RANGES = {"pool": "[1, inf)"}


class MixedPooling(nn.Module):
    """(B, C, H, W) float32 → (B, C·cells)."""

    def __init__(self, channels: int, cells: tuple[int, int]) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.5))
        self.cells = cells
        self.width = channels * cells[0] * cells[1]

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        maximum, mean = F.adaptive_max_pool2d(feature_map, self.cells), F.adaptive_avg_pool2d(feature_map, self.cells)
        return (self.alpha * maximum + (1 - self.alpha) * mean).flatten(1)


def build(channels: int, height: int, width: int, pool: int) -> nn.Module:
    """The head for maps of (channels, height, width), pooled to at most `pool` × `pool`."""
    return MixedPooling(channels, (min(pool, height), min(pool, width)))
