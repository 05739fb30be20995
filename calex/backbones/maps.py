"""What a module gives, read as a feature map (B, C, H, W): as it is, with its channels last, or made of a transformer's tokens.

Tokens (B, T, D) are read as a square grid of D channels, row by row. What T has more than the largest square are class
tokens (and distillation tokens, registers), which stand before the grid (Dosovitskiy et al. 2021, equation 1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

KINDS = ("maps", "channels_last", "tokens")
CLASS_TOKENS = ("drop", "append")
MOST_EXTRA = 2  # tokens before the grid, for a layout that nobody declared: a class and a distillation token


@dataclass(frozen=True)
class MapLayout:
    """How an output is read.

    kind: one of `KINDS`. extra: tokens before the grid. class_token: `drop` leaves them out; `append` gives their values to
    every cell, as further channels.
    """

    kind: str = "maps"
    extra: int = 0
    class_token: str = "drop"


MAPS = MapLayout()


def as_map(output: torch.Tensor, layout: MapLayout = MAPS) -> torch.Tensor:
    """Return an output as (B, C, H, W): itself, or a view or copy of it."""
    if layout.kind == "maps":
        return output
    if layout.kind == "channels_last":
        return output.permute(0, 3, 1, 2)
    batch, tokens, width = output.shape
    side = math.isqrt(tokens - layout.extra)
    grid = output[:, layout.extra :].transpose(1, 2).reshape(batch, width, side, side)
    if not layout.extra or layout.class_token == "drop":
        return grid
    import torch  # here, because records are read without it

    more = output[:, : layout.extra].reshape(batch, layout.extra * width, 1, 1)
    return torch.cat([grid, more.expand(-1, -1, side, side)], 1)


def map_shape(shape: Sequence[int], layout: MapLayout) -> tuple[int, int, int]:
    """(C, H, W) of `as_map` for one image's output of (1, …)."""
    if layout.kind == "maps":
        return shape[1], shape[2], shape[3]
    if layout.kind == "channels_last":
        return shape[3], shape[1], shape[2]
    side = math.isqrt(shape[1] - layout.extra)
    return shape[2] * (1 + layout.extra * (layout.class_token == "append")), side, side


def found(
    shape: Sequence[int], twice: Sequence[int] | None, class_token: str = "drop", declared: str | None = None
) -> MapLayout | None:
    """How an output is to be read; None for one that is no map.

    Parameters
    ----------
    shape : sequence of int
        Of the output for one image.
    twice : sequence of int or None
        Of the output for two images of twice the size; None where the network reads one size only, and what is told by being
        square has to do.
    class_token : str
        One of `CLASS_TOKENS`.
    declared : str, optional
        The kind, where the user says it.
    """
    if not shape or shape[0] != 1 or (twice is not None and (len(twice) != len(shape) or twice[0] != 2)):
        return None
    if len(shape) == 3 and declared in (None, "tokens"):
        extra = shape[1] - math.isqrt(shape[1]) ** 2
        more = None if twice is None else twice[1] - math.isqrt(twice[1]) ** 2
        if declared is None and (extra > MOST_EXTRA or more not in (None, extra) or (twice and twice[2] != shape[2])):
            return None
        return MapLayout("tokens", extra, class_token)
    if len(shape) != 4 or declared == "tokens":
        return None
    if declared is not None:
        return MapLayout(declared)
    _, first, second, last = shape
    if twice is None:
        return MAPS if second == last else MapLayout("channels_last") if first == second else None
    if twice[1] == first and (second == last or first != second):
        return MAPS
    grows = first == second and twice[1] == twice[2] and first < twice[1] <= 2 * first + 1
    return MapLayout("channels_last") if twice[3] == last and (grows or first == twice[1] == second) else None
