"""earlyon's head, as a head of calex: the average of each channel and a hidden layer."""

from __future__ import annotations

from torch import nn

OPTIONS = {"hidden": 128, "dropout": 0.2}
RANGES = {"hidden": "[1, inf)", "dropout": "[0, 1)"}


class Pooled(nn.Sequential):
    """(B, C, H, W) float32 → (B, hidden)."""

    def __init__(self, channels: int, hidden: int, dropout: float) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Dropout(dropout))
        self.width = hidden


def build(channels: int, height: int, width: int, hidden: int, dropout: float) -> nn.Module:
    return Pooled(channels, hidden, dropout)
