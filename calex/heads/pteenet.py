"""PTEEnet's branch: two 3×3 convolutions of the tap's own width, averaged over the map (Lahiany & Aperstein 2022)."""

from __future__ import annotations

from torch import nn


class ConvolutionPooling(nn.Sequential):
    """(B, C, H, W) float32 → (B, C)."""

    def __init__(self, channels: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.width = channels


def build(channels: int, height: int, width: int) -> nn.Module:
    """The head for maps of (channels, height, width)."""
    return ConvolutionPooling(channels)
