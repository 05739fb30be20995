"""The head that a budget buys: two strided convolutions where it pays for 64 filters, three separable ones where it does not.

Either is as wide as a share of the backbone's FLOPs allows. The rule is that of the study of heads (results/studies/heads.md):
early maps are large and plain convolutions dear there; later ones are small, and plain convolutions see more of them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from calex.heads import separable, strided
from calex.system import flops

# budget: the largest share of the backbone's FLOPs that a branch may cost, its classifier included and its confidence output
# not. backbone_flops (of one image) and classes are read off the features where they are 0.
OPTIONS = {"budget": 0.01, "backbone_flops": 0, "classes": 0}
RANGES = {"budget": "(0, 1]", "backbone_flops": "[0, inf)", "classes": "[0, inf)"}
FROM_FEATURES = ["backbone_flops", "classes"]

STRIDED = {**strided.OPTIONS, "blocks": 2}
SEPARABLE = {**separable.OPTIONS, "blocks": 3}
FEWEST_STRIDED = 64  # filters
STEP, WIDEST = 8, 512  # filters


def build(channels: int, height: int, width: int, budget: float, backbone_flops: int, classes: int) -> nn.Module:
    """The head within the budget for maps of (channels, height, width), or eight separable filters if none is within it."""
    head = choice(channels, height, width, budget * backbone_flops, classes)
    return _build(head, channels, height, width)


def choice(channels: int, height: int, width: int, allowed: float, classes: int) -> dict[str, Any]:
    """Return the head, as a config states it, for maps of (channels, height, width) and a branch of at most `allowed` FLOPs."""
    if not allowed or not classes:
        raise ValueError("backbone_flops and classes are not known; they are read off the features when a branch is trained")

    def cost(head: dict[str, Any]) -> int:
        with torch.device("meta"):  # counting draws no random numbers
            module: Any = _build(head, channels, height, width).eval()
        return flops.of(module, channels, height, width) + 2 * module.width * classes

    head: dict[str, Any] = {"name": "strided", **STRIDED, "filters": FEWEST_STRIDED}
    if cost(head) > allowed:
        head = {"name": "separable", **SEPARABLE, "filters": STEP}
    low, high = head["filters"] // STEP, WIDEST // STEP  # in steps; low is taken whatever it costs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost({**head, "filters": middle * STEP}) <= allowed else (low, middle - 1)
    return {**head, "filters": low * STEP}


def _build(head: dict[str, Any], channels: int, height: int, width: int) -> nn.Module:
    options = {key: value for key, value in head.items() if key != "name"}
    return {"strided": strided, "separable": separable}[head["name"]].build(channels, height, width, **options)
