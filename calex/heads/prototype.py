"""Augmented prototype pooling: how much of each learnt prototype an image holds, and where most (CalexNet, arXiv 2509.08318).

Every location of the feature map is softly assigned to M prototypes; the assignments are pooled over the map
by mean and by maximum, and the plain channel averages are added to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

# prototypes: M. temperature: of the assignment softmax; lower is harder. assignment: softmax or relu. grid: cells a side
# over which assignments are pooled, each by itself; the paper pools over the whole map.
OPTIONS = {"prototypes": 32, "temperature": 1.0, "assignment": "softmax", "grid": 1}
CHOICES = {"assignment": ["softmax", "relu"]}
RANGES = {"prototypes": "[1, inf)", "temperature": "(0, inf)", "grid": "[1, inf)"}


class PrototypePooling(nn.Module):
    """(B, C, H, W) float32 → (B, 2·M·cells + C).

    The normalisation has no scale and shift of its own: the prototypes and the linear layer that follow hold both, and
    without them nothing in front of the prototypes needs a gradient, which halves the cost of training.
    """

    def __init__(self, channels: int, prototypes: int, temperature: float, assignment: str, cells: tuple[int, int]) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.prototypes = nn.Conv2d(channels, prototypes, kernel_size=1)
        self.temperature = temperature
        self.assignment = assignment
        self.cells = cells
        self.width = 2 * prototypes * cells[0] * cells[1] + channels

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return forward_fused([self], feature_map)[0]


def forward_fused(cores: Sequence[PrototypePooling], feature_map: torch.Tensor) -> list[torch.Tensor]:
    """Run cores of one kind over one map, each as if it ran by itself; the normalisation, which is the same, is done once."""
    first, *others = cores
    normal = first.norm(feature_map)
    for other in others if first.training else ():
        other.norm.load_state_dict(first.norm.state_dict())
    weight = torch.cat([core.prototypes.weight for core in cores])
    bias = torch.cat([core.prototypes.bias for core in cores])  # type: ignore[misc]
    affinity = F.conv2d(normal, weight / first.temperature, bias / first.temperature).unflatten(1, (len(cores), -1))
    share = affinity.softmax(dim=2) if first.assignment == "softmax" else affinity.relu()
    if first.cells == (1, 1):
        mean, maximum = MeanMaxPool.apply(share.flatten(3))
    else:
        pooled = (pool(share.flatten(1, 2), first.cells) for pool in (F.adaptive_avg_pool2d, F.adaptive_max_pool2d))
        mean, maximum = (values.unflatten(1, (len(cores), -1)).flatten(2) for values in pooled)
    average = normal.mean((2, 3))
    return [torch.cat((mean[:, n], maximum[:, n], average), dim=1) for n in range(len(cores))]


class MeanMaxPool(torch.autograd.Function):
    """The mean and the maximum over the last axis, with both gradients written in one pass.

    Apart, as autograd does it, they cost more than the rest of the head. Every place that holds the maximum gets the
    maximum's gradient.
    """

    @staticmethod
    def forward(context: Any, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maximum = values.amax(-1)
        context.save_for_backward(values, maximum)
        return values.mean(-1), maximum

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        values, maximum = context.saved_tensors
        of_mean, of_maximum = gradients
        everywhere = (of_mean / values.shape[-1]).unsqueeze(-1)
        return torch.where(values == maximum.unsqueeze(-1), everywhere + of_maximum.unsqueeze(-1), everywhere)


def build(channels: int, height: int, width: int, grid: int, **options: object) -> nn.Module:
    """The head for maps of (channels, height, width), with the options above."""
    return PrototypePooling(channels, cells=(min(grid, height), min(grid, width)), **options)  # type: ignore[arg-type]
