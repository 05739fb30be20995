"""BoostNet's branch: two strided 3×3 convolutions, averaged over what is left of the map (Yu et al. 2023)."""

from __future__ import annotations

from torch import nn

# filters: channels of both convolutions.
OPTIONS = {"filters": 128}
RANGES = {"filters": "[1, inf)"}


class StridedPooling(nn.Sequential):
    """(B, C, H, W) float32 → (B, filters)."""

    def __init__(self, channels: int, filters: int) -> None:
        layers: list[nn.Module] = []
        for wide in (channels, filters):
            layers += [nn.Conv2d(wide, filters, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(filters), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.width = filters


def build(channels: int, height: int, width: int, filters: int) -> nn.Module:
    """The head for maps of (channels, height, width)."""
    return StridedPooling(channels, filters)
