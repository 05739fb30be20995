"""BoostNet: each branch mends what the branches before it got wrong (Yu et al. 2023).

F_1 = f_1, F_n = f_n + t·F_{n−1}; branch n learns f_n alone, and answers softmax(F_n). The paper's rescaling of gradients
changes nothing over a frozen backbone, where branches share no weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from calex.branches import Answer, Cascade, Classifier, seeded
from calex.cost import Costs
from calex.recipes._fit import Epochs, fit, summed

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


class Boosted(Cascade):
    """Exits that answer a running sum. Its C multiply-adds an exit are no linear layer: they count as nothing."""

    def __init__(self, branches: Sequence[Classifier], boost: float) -> None:
        super().__init__(branches)
        self.boost = boost

    def forward(self, taps: Sequence[torch.Tensor]) -> list[Answer]:
        """F_n of each exit; gradients reach f_n and stop there."""
        said: list[Answer] = []
        for branch, tap in zip(self.branches, taps, strict=True):
            logits = branch.classify(tap)  # type: ignore[operator]
            said.append((logits + self.boost * said[-1][0].detach() if said else logits, None))
        return said


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Boosted:
    """Untrained branches, one a tap of shape (C, H, W), each with random numbers of its own."""
    return Boosted([Classifier(head, shapes[k - 1], classes) for k in seeded(seed, len(shapes))], settings["boost"])


def train(
    cascade: Boosted,
    loader: Epochs,
    target: dict[str, Any],
    settings: dict[str, Any],
    costs: Costs,
    seed: int,
    device: torch.device,
    label: str,
) -> list[float]:
    """Minimise Σ_n of the target's loss of f_n + stopgrad(t·F_{n−1}), over all branches at once."""
    loss_of = summed(target)
    cascade.to(device).train()

    def loss(batch: Any) -> torch.Tensor:
        return loss_of([logits for logits, _ in cascade([tap.float() for tap in batch.taps])], batch)

    return fit(cascade.parameters(), loader, loss, label, **{key: settings[key] for key in settings if key != "boost"})
