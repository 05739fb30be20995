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

from calex.branches.branch import Branches, BranchOutput, Classifier, seeded
from calex.branches.fitting import TrainingJob, fit
from calex.features.loader import Batch, Loader

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
        """Return the logits (B, C) of the weighted geometric mean of m distributions (B, m, C)."""
        return (self.weight.exp()[:, None] * log_probabilities).mean(1) + self.bias


class ZTWBranch(Classifier):
    """A branch that reads the previous one's logits, and the ensemble of its exit."""

    def __init__(self, head: dict[str, Any], shape: tuple[int, int, int], classes: int, branch: int) -> None:
        """branch: its number, from 0."""
        super().__init__(head, shape, classes, extra=classes if branch else 0)
        self.ensemble = Ensemble(branch + 1, classes)


class ZTWBranches(Branches):
    """Exits that answer the ensemble of all branches so far.

    What the ensemble itself costs, m·C multiply-adds, is no linear layer and counts as nothing; the reading of the
    previous logits is a part of the classifier and counts.
    """

    def logits(self, taps: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Compute f_k (B, C) of each branch; gradients stop between branches."""
        logits: list[torch.Tensor] = []
        for branch, tap in zip(self.branches, taps, strict=True):
            logits.append(branch.classify(tap, logits[-1].detach() if logits else None))  # type: ignore[operator]
        return logits

    def ensembles(self, log_probabilities: torch.Tensor) -> list[torch.Tensor]:
        """Compute the unnormalised log q_m (B, C) of each exit from log p_k (B, K, C)."""
        return [branch.ensemble(log_probabilities[:, : m + 1]) for m, branch in enumerate(self.branches)]  # type: ignore[operator]

    def log_probabilities(self, taps: Sequence[torch.Tensor]) -> torch.Tensor:
        """Compute log p_k, (B, K, C)."""
        return torch.stack(self.logits(taps), 1).log_softmax(2)

    def exit(
        self, k: int, tap: torch.Tensor, before: torch.Tensor | None, confidence: bool = True
    ) -> tuple[BranchOutput, torch.Tensor]:
        """Compute the ensemble of an exit; `before` holds the logits of the branches before it, (B, k, C)."""
        branch = self.branches[k]
        logits = branch.classify(tap, None if before is None else before[:, -1].detach())[:, None]  # type: ignore[operator]
        so_far = logits if before is None else torch.cat((before, logits), 1)
        return BranchOutput(branch.ensemble(so_far.log_softmax(2)), None), so_far  # type: ignore[operator]


class CachedLogits:
    """The outputs of frozen branches for every training image and view, in shuffled batches as a loader gives them.

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
        """Yield shuffled batches; image n comes in view (number + n) mod V."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.labels))
        for position in torch.from_numpy(order).to(self.labels.device).split(self.batch_size):
            view = (number + position) % len(self.log_softmax)
            log_probabilities, log_softmax = self.log_probabilities[view, position], self.log_softmax[view, position]
            yield Batch([log_probabilities], log_softmax, self.labels[position], position, view)


@torch.no_grad()
def cache_logits(cascade: ZTWBranches, loader: Loader, batch_size: int, seed: int) -> CachedLogits:
    """Run the frozen branches once: K + 1 times the size of the store's log-softmax, in memory."""
    cascade.eval()
    views, images, classes = loader.store.layout.views, loader.store.layout.images, loader.store.layout.classes
    log_probabilities = torch.empty(views, images, len(cascade.branches), classes, device=loader.device)
    log_softmax = torch.empty(views, images, classes, device=loader.device)
    for view in range(views):
        for batch in loader.ordered(view):
            log_probabilities[view, batch.position] = cascade.log_probabilities([tap.float() for tap in batch.taps])
            log_softmax[view, batch.position] = batch.log_softmax
    return CachedLogits(log_probabilities, log_softmax, loader.labels, batch_size, seed)


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> ZTWBranches:
    """Build untrained branches, one for each tap of shape (C, H, W), each from a seed of its own."""
    return ZTWBranches(ZTWBranch(head, shapes[branch], classes, branch) for branch in seeded(seed, len(shapes)))


def train(cascade: ZTWBranches, job: TrainingJob) -> list[float]:
    """Minimise the sum over branches of the target's loss, then the same over ensembles; gives both phases' losses."""
    summed_loss, settings = job.summed_loss(), job.settings
    cascade.to(job.device).train()
    of_ensembles = [parameter for branch in cascade.branches for parameter in branch.ensemble.parameters()]  # type: ignore[union-attr]
    of_branches = [parameter for parameter in cascade.parameters() if not any(parameter is other for other in of_ensembles)]
    first = {key: value for key, value in settings.items() if not key.startswith("ensemble_")}
    second = {key: settings[f"ensemble_{key}"] for key in ("epochs", "batch_size", "learning_rate")}

    def branches_loss(batch: Batch) -> torch.Tensor:
        return summed_loss(cascade.logits([tap.float() for tap in batch.taps]), batch)

    def ensembles_loss(batch: Batch) -> torch.Tensor:
        return summed_loss(cascade.ensembles(batch.taps[0]), batch)

    history = fit(of_branches, job.loader, branches_loss, job.label, steady=True, **first)
    cached = cache_logits(cascade, job.loader, second["batch_size"], 1000 * job.seed)
    return history + fit(
        of_ensembles, cached, ensembles_loss, f"{job.label}, ensembles",
        weight_decay=0.0, schedule="constant", prefix="ensemble_", steady=True, **second,
    )  # fmt: skip
