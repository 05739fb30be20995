"""BoostNet: each branch corrects what the branches before it got wrong (Yu et al. 2023).

F_1 = f_1, F_n = f_n + t·F_{n−1}; branch n learns f_n alone, and answers softmax(F_n). The paper's rescaling of gradients
changes nothing over a frozen backbone, where branches share no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from calex.branches.branch import Branches, BranchOutput, Classifier, seeded
from calex.branches.fitting import TrainingJob, fit

JOINT = True
SCORES = ["max_softmax", "margin", "entropy"]

# boost: t. The others as in `branchwise`; schedule of the learning rate.
OPTIONS = {
    "boost": 0.5,
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "schedule": "cosine",
}
CHOICES = {"schedule": ["constant", "cosine"]}
RANGES = {
    "boost": "[0, inf)",
    "epochs": "[1, inf)",
    "batch_size": "[2, inf)",
    "learning_rate": "(0, inf)",
    "weight_decay": "[0, inf)",
}


class Boosted(Branches):
    """Exits that answer a running sum. Its C multiply-adds an exit are no linear layer: they count as nothing."""

    def __init__(self, branches: Sequence[Classifier], boost: float) -> None:
        super().__init__(branches)
        self.boost = boost

    def exit(
        self, k: int, tap: torch.Tensor, before: torch.Tensor | None, confidence: bool = True
    ) -> tuple[BranchOutput, torch.Tensor]:
        """Compute F_n of an exit from F_{n−1}; gradients reach f_n and stop there."""
        logits = self.branches[k].classify(tap)  # type: ignore[operator]
        boosted = logits if before is None else logits + self.boost * before.detach()
        return BranchOutput(boosted, None), boosted


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Boosted:
    """Build untrained branches, one for each tap of shape (C, H, W), each from a seed of its own."""
    return Boosted([Classifier(head, shapes[branch], classes) for branch in seeded(seed, len(shapes))], settings["boost"])


def train(cascade: Boosted, job: TrainingJob) -> list[float]:
    """Minimise Σ_n of the target's loss of f_n + stopgrad(t·F_{n−1}), over all branches at once; gives each epoch's mean loss."""
    summed_loss = job.summed_loss()
    cascade.to(job.device).train()

    def loss(batch: Any) -> torch.Tensor:
        return summed_loss([output.logits for output in cascade([tap.float() for tap in batch.taps])], batch)

    options = {key: value for key, value in job.settings.items() if key != "boost"}
    return fit(cascade.parameters(), job.loader, loss, job.label, steady=True, **options)
