"""Zero Time Waste: branches that read the previous branch's answer, then an ensemble of all so far (Wójcik et al. 2021).

First the branches learn together, each by its own loss; branch k reads the detached logits of branch k − 1. Then,
with the branches frozen, exit m learns q_m = softmax((1/m) Σ_{j≤m} exp(w_{m,j})·log p_j + b_m).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from calex.branches import Answer, Cascade, Classifier, seeded
from calex.cost import Costs
from calex.features.loader import Batch, Loader
from calex.recipes._fit import fit, summed

JOINT = True
SCORES = ["max_softmax", "margin", "entropy"]

# epochs … schedule: of the branches, as in `branchwise`; `step` takes a tenth of the rate from epoch `milestone` on.
# ensemble_*: of the second phase.
OPTIONS = {
    "epochs": 50,
    "batch_size": 128,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "schedule": "step",
    "milestone": 15,
    "ensemble_epochs": 50,
    "ensemble_batch_size": 512,
    "ensemble_learning_rate": 0.0005,
}
CHOICES = {"schedule": ["step", "constant", "cosine"]}
RANGES = {
    "epochs": "[1, inf)",
    "batch_size": "[2, inf)",
    "learning_rate": "(0, inf)",
    "weight_decay": "[0, inf)",
    "milestone": "[0, inf)",
    "ensemble_epochs": "[0, inf)",
    "ensemble_batch_size": "[2, inf)",
    "ensemble_learning_rate": "(0, inf)",
}


class Ensemble(nn.Module):
    """(B, m, C) log-probabilities of branches 1..m → (B, C), of which the softmax is q_m."""

    def __init__(self, members: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(members) * 0.01)
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        return (self.weight.exp()[:, None] * log_probabilities).mean(1) + self.bias


class Link(Classifier):
    """Branch k of the chain and the ensemble of exit k."""

    def __init__(self, head: dict[str, Any], shape: tuple[int, int, int], classes: int, k: int) -> None:
        super().__init__(head, shape, classes, extra=classes if k > 1 else 0)
        self.ensemble = Ensemble(k, classes)


class Chain(Cascade):
    """Exits that answer the ensemble of all branches so far.

    What the ensemble itself costs, m·C multiply-adds, is no linear layer and counts as nothing; the reading of the
    previous logits is a part of the classifier and counts.
    """

    def logits(self, taps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """f_k (B, C) of each branch; gradients stop between branches."""
        said: list[torch.Tensor] = []
        for branch, tap in zip(self.branches, taps, strict=True):
            said.append(branch.classify(tap, said[-1].detach() if said else None))  # type: ignore[operator]
        return said

    def ensembles(self, log_probabilities: torch.Tensor) -> list[torch.Tensor]:
        """The unnormalised log q_m (B, C) of each exit, from log p_k (B, K, C)."""
        return [branch.ensemble(log_probabilities[:, : m + 1]) for m, branch in enumerate(self.branches)]  # type: ignore[operator]

    def log_probabilities(self, taps: Sequence[torch.Tensor]) -> torch.Tensor:
        """log p_k, (B, K, C)."""
        return torch.stack(self.logits(taps), 1).log_softmax(2)

    def forward(self, taps: Sequence[torch.Tensor]) -> list[Answer]:
        return [(logits, None) for logits in self.ensembles(self.log_probabilities(taps))]


class Remembered:
    """What frozen branches say about every training image and view, in shuffled batches as a loader gives them.

    log_probabilities: (V, N, K, C), as a batch's only tap; log_softmax: (V, N, C); labels: (N,).
    """

    def __init__(
        self, log_probabilities: torch.Tensor, log_softmax: torch.Tensor, labels: torch.Tensor, batch_size: int, seed: int
    ) -> None:
        self.log_probabilities, self.log_softmax, self.labels = log_probabilities, log_softmax, labels
        self.batch_size, self.seed = batch_size, seed

    def __len__(self) -> int:
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        order = np.random.default_rng([self.seed, number]).permutation(len(self.labels))
        for position in torch.from_numpy(order).to(self.labels.device).split(self.batch_size):
            view = (number + position) % len(self.log_softmax)
            said, backbone = self.log_probabilities[view, position], self.log_softmax[view, position]
            yield Batch([said], backbone, self.labels[position], position, view)


@torch.no_grad()
def remembered(cascade: Chain, loader: Loader, batch_size: int, seed: int) -> Remembered:
    """Ask the frozen branches once: K times the size of the store's log-softmax, in memory."""
    cascade.eval()
    said, backbone, labels = [], [], []
    for view in range(loader.store.layout.views):
        batches = [
            (cascade.log_probabilities([tap.float() for tap in batch.taps]), batch.log_softmax, batch.labels)
            for batch in loader.ordered(view)
        ]
        here = [torch.cat(parts) for parts in zip(*batches, strict=True)]
        said.append(here[0])
        backbone.append(here[1])
        labels.append(here[2])
    return Remembered(torch.stack(said), torch.stack(backbone), labels[0], batch_size, seed)


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Chain:
    """Untrained branches, one a tap of shape (C, H, W), each with random numbers of its own."""
    return Chain(Link(head, shapes[k - 1], classes, k) for k in seeded(seed, len(shapes)))


def train(
    cascade: Chain,
    loader: Loader,
    target: dict[str, Any],
    settings: dict[str, Any],
    costs: Costs,
    seed: int,
    device: torch.device,
    label: str,
) -> list[float]:
    """Minimise the sum over branches of the target's loss, then the same over ensembles; returns both phases' losses."""
    loss_of = summed(target)
    cascade.to(device).train()
    mixed = [parameter for branch in cascade.branches for parameter in branch.ensemble.parameters()]  # type: ignore[union-attr]
    chained = [parameter for parameter in cascade.parameters() if not any(parameter is other for other in mixed)]
    first = {key: value for key, value in settings.items() if not key.startswith("ensemble_")}
    second = {key: settings[f"ensemble_{key}"] for key in ("epochs", "batch_size", "learning_rate")}
    history = fit(
        chained, loader, lambda batch: loss_of(cascade.logits([tap.float() for tap in batch.taps]), batch), label, **first
    )
    memory = remembered(cascade, loader, second["batch_size"], 1000 * seed)
    return history + fit(
        mixed, memory, lambda batch: loss_of(cascade.ensembles(batch.taps[0]), batch), f"{label}, ensembles",
        weight_decay=0.0, schedule="constant", prefix="ensemble_", **second,
    )  # fmt: skip
