"""The head that a budget buys: two strided convolutions where it pays for 64 filters, three separable ones where it does not.

Either is as wide as a share of the backbone's FLOPs allows. The rule is that of the study of heads (results/studies/heads.md).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from calex import plugins
from calex.heads import separable, strided
from calex.system import flops

# budget: the largest share of the backbone's FLOPs that a branch may cost, its classifier included and its confidence output
# not. backbone_flops (of one image) and classes are read off the features where they are 0.
OPTIONS = {"budget": 0.01, "backbone_flops": 0, "classes": 0}
RANGES = {"budget": "(0, 1]", "backbone_flops": "[0, inf)", "classes": "[0, inf)"}
FROM_FEATURES = ["backbone_flops", "classes"]

STEP, WIDEST = 8, 512  # filters
# The narrowest head of either kind.
STRIDED: dict[str, Any] = {"name": "strided", **strided.OPTIONS, "filters": 64, "blocks": 2}
SEPARABLE: dict[str, Any] = {"name": "separable", **separable.OPTIONS, "filters": STEP, "blocks": 3}


def build(channels: int, height: int, width: int, budget: float, backbone_flops: int, classes: int) -> nn.Module:
    """The head within the budget for maps of (channels, height, width), or eight separable filters if none is within it."""
    if not backbone_flops or not classes:
        raise ValueError("backbone_flops and classes are not known; they are read off the features when a branch is trained")
    return _module(choice(channels, height, width, budget * backbone_flops, classes), channels, height, width)


def choice(channels: int, height: int, width: int, allowed: float, classes: int) -> dict[str, Any]:
    """Return the head, as a config states it, for maps of (channels, height, width) and a branch of at most `allowed` FLOPs."""

    def cost(head: dict[str, Any]) -> int:
        with torch.device("meta"):  # counting draws no random numbers
            module: Any = _module(head, channels, height, width).eval()
        return flops.of(module, channels, height, width) + 2 * module.width * classes

    narrowest = STRIDED if cost(STRIDED) <= allowed else SEPARABLE
    low, high = narrowest["filters"] // STEP, WIDEST // STEP  # in steps; low is taken whatever it costs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost({**narrowest, "filters": middle * STEP}) <= allowed else (low, middle - 1)
    return {**narrowest, "filters": low * STEP}


def _module(head: dict[str, Any], channels: int, height: int, width: int) -> nn.Module:
    module: nn.Module = plugins.load("heads", head["name"]).build(channels, height, width, **plugins.options_of(head))
    return module
