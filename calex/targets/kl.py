"""Distillation to the backbone's full softmax: T²·KL(softmax(z/T) ‖ softmax(f/T)) (Hinton et al. 2015, section 2)."""

from __future__ import annotations

import torch
from torch.nn import functional as F

# temperature: T, softens both sides.
OPTIONS = {"temperature": 1.0}
RANGES = {"temperature": "(0, inf)"}


def losses(logits: torch.Tensor, log_softmax: torch.Tensor, labels: torch.Tensor, temperature: float) -> torch.Tensor:
    """softmax(z/T) comes from log-softmax just as well: it differs from the logits z by a constant."""
    teacher = (log_softmax / temperature).log_softmax(1)
    student = (logits / temperature).log_softmax(1)
    return temperature**2 * F.kl_div(student, teacher, reduction="none", log_target=True).sum(1)
