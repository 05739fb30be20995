"""Augmented prototype pooling: how much of each learnt prototype an image holds, and where most (CalexNet, arXiv 2509.08318).

Every location of the feature map is softly assigned to M prototypes; the assignments are pooled over the map
by mean and by maximum, and the plain channel averages are added to them.
"""

from __future__ import annotations

import torch
from torch import nn

# prototypes: M. temperature: of the assignment softmax; lower is harder. assignment: softmax or relu.
OPTIONS = {"prototypes": 32, "temperature": 1.0, "assignment": "softmax"}
CHOICES = {"assignment": ["softmax", "relu"]}
RANGES = {"prototypes": "[1, inf)", "temperature": "(0, inf)"}


class PrototypePooling(nn.Module):
    """(B, C, H, W) float32 → (B, 2·M + C)."""

    def __init__(self, channels: int, prototypes: int, temperature: float, assignment: str) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.prototypes = nn.Conv2d(channels, prototypes, kernel_size=1)
        self.temperature = temperature
        self.assignment = assignment
        self.width = 2 * prototypes + channels

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        normal = self.norm(feature_map)
        affinity = self.prototypes(normal) / self.temperature
        share = affinity.softmax(dim=1) if self.assignment == "softmax" else affinity.relu()
        return torch.cat((share.mean((2, 3)), share.amax((2, 3)), normal.mean((2, 3))), dim=1)


def build(channels: int, height: int, width: int, **options: object) -> nn.Module:
    return PrototypePooling(channels, **options)  # type: ignore[arg-type]
