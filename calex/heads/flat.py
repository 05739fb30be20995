"""The map itself, averaged to a small grid and flattened: no weights, for recipes that learn none."""

from __future__ import annotations

from torch import nn

# pool: cells a side that are kept; a smaller map is kept as it is.
OPTIONS = {"pool": 2}
RANGES = {"pool": "[1, inf)"}


class Flat(nn.Sequential):
    """(B, C, H, W) float32 → (B, C·cells)."""

    def __init__(self, channels: int, cells: tuple[int, int]) -> None:
        super().__init__(nn.AdaptiveAvgPool2d(cells), nn.Flatten())
        self.width = channels * cells[0] * cells[1]


def build(channels: int, height: int, width: int, pool: int) -> nn.Module:
    """The head for maps of (channels, height, width), averaged to at most `pool` × `pool`."""
    return Flat(channels, (min(pool, height), min(pool, width)))
