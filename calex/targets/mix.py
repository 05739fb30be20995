"""Distillation and labels together: α·kl + (1 − α)·labels."""

from __future__ import annotations

import torch

from calex.targets import kl, labels

# alpha: the share of distillation. temperature: T of its softmax.
OPTIONS = {"alpha": 0.5, "temperature": 1.0}
RANGES = {"alpha": "[0, 1]", "temperature": "(0, inf)"}


def losses(
    logits: torch.Tensor, log_softmax: torch.Tensor, labels_: torch.Tensor, alpha: float, temperature: float
) -> torch.Tensor:
    """(B,) `alpha` times the distillation at `temperature`, and the rest of the loss with the labels."""
    distilled = kl.losses(logits, log_softmax, labels_, temperature)
    return alpha * distilled + (1 - alpha) * labels.losses(logits, log_softmax, labels_)
