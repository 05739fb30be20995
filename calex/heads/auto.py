"""The head that a budget buys: three separable convolutions, as wide as a share of the backbone's FLOPs allows.

The rule is that of the study of heads (results/studies/heads.md).
"""

from __future__ import annotations

import torch
from torch import nn

from calex.heads import separable
from calex.system import flops

# budget: the largest share of the backbone's FLOPs that a branch may cost, its classifier included and its confidence output
# not. backbone_flops (of one image) and classes are read off the features where they are 0.
OPTIONS = {"budget": 0.01, "backbone_flops": 0, "classes": 0}
RANGES = {"budget": "(0, 1]", "backbone_flops": "[0, inf)", "classes": "[0, inf)"}
FROM_FEATURES = ["backbone_flops", "classes"]

BLOCKS = 3
STEP, WIDEST = 8, 512  # filters


def build(channels: int, height: int, width: int, budget: float, backbone_flops: int, classes: int) -> nn.Module:
    """The widest head for maps of (channels, height, width) within the budget, or the narrowest one if none is."""
    if not backbone_flops or not classes:
        raise ValueError("backbone_flops and classes are not known; they are read off the features when a branch is trained")

    def head(filters: int) -> separable.SeparablePooling:
        return separable.SeparablePooling(channels, height, width, filters=filters, blocks=BLOCKS, grid=1, hidden=0)

    def cost(filters: int) -> int:
        with torch.device("meta"):  # counting draws no random numbers
            module = head(filters).eval()
        return flops.of(module, channels, height, width) + 2 * module.width * classes

    low, high = 1, WIDEST // STEP  # in steps; low is taken whatever it costs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if cost(middle * STEP) <= budget * backbone_flops else (low, middle - 1)
    return head(low * STEP)
