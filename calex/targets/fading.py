"""Distillation that fades with depth: α·kl + (1 − α)·labels, α falling evenly from the first branch to the last.

A first branch is small, and learns more from the backbone's answers than from labels. A last branch is nearly as good as the
backbone: one that learns from it errs on the same images, one that learns from labels errs on others, which is what a cascade
gains by.
"""

from __future__ import annotations

import torch

from calex.targets import mix

# first, last: α at the first branch and at the last. temperature: T of the distillation's softmax.
OPTIONS = {"first": 0.5, "last": 0.0, "temperature": 4.0}
RANGES = {"first": "[0, 1]", "last": "[0, 1]", "temperature": "(0, inf)"}

DEPTH = True


def losses(
    logits: torch.Tensor,
    log_softmax: torch.Tensor,
    labels_: torch.Tensor,
    depth: float,
    first: float,
    last: float,
    temperature: float,
) -> torch.Tensor:
    """(B,) the mixed loss of a branch at `depth`, 0 for the first branch and 1 for the last."""
    return mix.losses(logits, log_softmax, labels_, first + (last - first) * depth, temperature)
