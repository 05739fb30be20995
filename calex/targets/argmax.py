"""The backbone's answer as a hard label: cross-entropy on its argmax."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def losses(logits: torch.Tensor, log_softmax: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """(B,) cross entropy of logits (B, C) with the class that the backbone answers."""
    return F.cross_entropy(logits, log_softmax.argmax(1), reduction="none")
