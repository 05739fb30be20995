"""Deep supervision: the plain sum of the branches' losses, as SDN trains its exits (Kaya et al., ICML 2019).

Over a frozen backbone branches share no weights, so that each learns as if alone; exits may answer for all branches so far.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from calex.branches.branch import Branches, Classifier, seeded
from calex.branches.ensembles import Ensembled
from calex.branches.fitting import TrainingJob, fit

JOINT = True
SCORES = ["max_softmax", "margin", "entropy"]

# ensemble: what an exit answers: its branch's softmax, or that of all branches so far, `averaged` or `geometric`.
# The others as in `branchwise`; schedule of the learning rate.
OPTIONS = {
    "ensemble": "none",
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "schedule": "cosine",
}
CHOICES = {"ensemble": ["none", "averaged", "geometric"], "schedule": ["constant", "cosine"]}
RANGES = {"epochs": "[1, inf)", "batch_size": "[2, inf)", "learning_rate": "(0, inf)", "weight_decay": "[0, inf)"}


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Ensembled:
    """Build untrained branches, one for each tap of shape (C, H, W), each from a seed of its own."""
    return Ensembled((Classifier(head, shapes[k], classes) for k in seeded(seed, len(shapes))), settings["ensemble"])


def train(cascade: Ensembled, job: TrainingJob) -> list[float]:
    """Minimise Σ_k of the target's loss of branch k by itself, whatever the exits answer; gives each epoch's mean loss."""
    summed_loss = job.summed_loss()
    cascade.to(job.device).train()

    def loss(batch: Any) -> torch.Tensor:
        outputs = [Branches.exit(cascade, k, tap.float(), None, False)[0] for k, tap in enumerate(batch.taps)]
        return summed_loss([output.logits for output in outputs], batch)

    options = {key: value for key, value in job.settings.items() if key != "ensemble"}
    return fit(cascade.parameters(), job.loader, loss, job.label, steady=True, **options)
