"""PTEEnet: all branches learn together when to answer and what, for a price (Lahiany & Aperstein 2022).

P_{K+1} = the backbone's softmax, C_{K+1} = 1; P_k = h_k·p_k + (1 − h_k)·P_{k+1}; C_k = h_k·c_k + (1 − h_k)·C_{k+1},
with h_k the confidence and c_k what it costs to leave at branch k, as a share of the backbone.

A branch learns of an image in proportion to h_k. Beside a trained backbone a new branch is the worse answer for most images, so
h_k falls to 0 for them before the branch has learnt them, and then it never does: it keeps one or two classes. `warmup` is not
the paper's: branches first learn by themselves, as in deep supervision, so that confidences meet classifiers that can answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from calex.branches.branch import Branch, Branches, seeded
from calex.branches.fitting import TrainingJob, fit
from calex.recipes import check_target

JOINT = True
WARMUP = True
TARGETS = ["argmax", "labels"]

# version: v1 is NLL(P_1, t) + λ·C_1, v2 the mean of NLL(P_k, t) + λ·C_k over k. cost_weight: λ. warmup: epochs, of all, in
# which each branch minimises NLL(p_k, t). The others as in `branchwise`; schedule of the learning rate.
OPTIONS = {
    "version": "v1",
    "cost_weight": 0.9,
    "warmup": 0,
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "schedule": "constant",
}
CHOICES = {"version": ["v1", "v2"], "schedule": ["constant", "cosine"]}
RANGES = {
    "cost_weight": "[0, inf)",
    "warmup": "[0, inf)",
    "epochs": "[1, inf)",
    "batch_size": "[2, inf)",
    "learning_rate": "(0, inf)",
    "weight_decay": "[0, inf)",
}


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Branches:
    """Build untrained branches, one for each tap of shape (C, H, W), each from a seed of its own."""
    return Branches(Branch(head, shapes[branch], classes, shared_core) for branch in seeded(seed, len(shapes)))


def losses(
    log_p: torch.Tensor,
    confidence: torch.Tensor,
    log_backbone: torch.Tensor,
    cost: torch.Tensor,
    version: str,
    cost_weight: float,
) -> torch.Tensor:
    """Compute the loss of each image, (B,) float32, by the paper's recursion from the deepest branch to the shallowest.

    In logarithms, because h soon is 0 or 1 to float32 and log(1 − h) would be −∞.

    Parameters
    ----------
    log_p : (K, B)
        log p_k of the target class.
    confidence : (K, B)
        The logits of h_k.
    log_backbone : (B,)
        The backbone's log-probability of the target class.
    cost : (K,)
        c_k, as a share of the backbone.
    version : {"v1", "v2"}
        The loss of the first branch's mixture, or the mean over all branches'.
    cost_weight : float
        λ.
    """
    log_stay, log_leave = logsigmoid(-confidence), logsigmoid(confidence)
    log_mixture, paid, by_branch = log_backbone, torch.ones_like(log_backbone), []
    for k in reversed(range(len(log_p))):
        log_mixture = torch.logaddexp(log_leave[k] + log_p[k], log_stay[k] + log_mixture)
        paid = log_leave[k].exp() * cost[k] + log_stay[k].exp() * paid
        by_branch.append(cost_weight * paid - log_mixture)
    return by_branch[-1] if version == "v1" else torch.stack(by_branch).mean(0)


def train(cascade: Branches, job: TrainingJob) -> list[float]:
    """Minimise the batch mean of `losses`; gives each epoch's mean loss."""
    check_target("pteenet", job.target["name"], "target")
    assert job.costs is not None
    shares = torch.tensor(job.costs.by_exit_alone() / job.costs.backbone, dtype=torch.float32, device=job.device)
    cascade.to(job.device).train()
    options = dict(job.settings)
    version, cost_weight, warmup = (options.pop(name) for name in ("version", "cost_weight", "warmup"))

    def outputs_of(batch: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        outputs = cascade([tap.float() for tap in batch.taps])
        truth = (batch.labels if job.target["name"] == "labels" else batch.log_softmax.argmax(1))[:, None]
        log_p = torch.stack([output.logits.log_softmax(1).gather(1, truth).squeeze(1) for output in outputs])
        confidence = torch.stack([output.confidence for output in outputs])
        return log_p, confidence, batch.log_softmax.gather(1, truth).squeeze(1)

    def alone(batch: Any) -> torch.Tensor:
        log_p, confidence, _ = outputs_of(batch)
        return -log_p.sum(0).mean() + 0 * confidence.sum()

    def together(batch: Any) -> torch.Tensor:
        log_p, confidence, log_backbone = outputs_of(batch)
        return losses(log_p, confidence, log_backbone, shares, version, cost_weight).mean()

    phases = [(alone, warmup, "warm-up of "), (together, options.pop("epochs") - warmup, "")]
    return [
        value
        for loss, epochs, name in phases
        if epochs
        for value in fit(cascade.parameters(), job.loader, loss, f"{name}{job.label}", epochs=epochs, steady=True, **options)
    ]
