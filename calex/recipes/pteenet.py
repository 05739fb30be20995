"""PTEEnet: all branches learn together when to answer and what, for a price (Lahiany & Aperstein 2022).

P_{K+1} = the backbone's softmax, C_{K+1} = 1; P_k = h_k·p_k + (1 − h_k)·P_{k+1}; C_k = h_k·c_k + (1 − h_k)·C_{k+1},
with h_k the confidence and c_k what it costs to leave at branch k, as a share of the backbone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from calex.branches import Branch, Cascade, seeded
from calex.cost import Costs
from calex.recipes import check_target
from calex.recipes._fit import Epochs, fit

JOINT = True
TARGETS = ["argmax", "labels"]

# version: v1 is NLL(P_1, t) + λ·C_1, v2 the mean of NLL(P_k, t) + λ·C_k over k. cost_weight: λ. The others as in
# `branchwise`; schedule of the learning rate.
OPTIONS = {
    "version": "v1",
    "cost_weight": 0.9,
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "schedule": "constant",
}
CHOICES = {"version": ["v1", "v2"], "schedule": ["constant", "cosine"]}
RANGES = {
    "cost_weight": "[0, inf)",
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
) -> Cascade:
    """Untrained branches, one a tap of shape (C, H, W), each with random numbers of its own."""
    return Cascade(Branch(head, shapes[k - 1], classes, shared_core) for k in seeded(seed, len(shapes)))


def losses(
    log_p: torch.Tensor,
    confidence: torch.Tensor,
    log_backbone: torch.Tensor,
    cost: torch.Tensor,
    version: str,
    cost_weight: float,
) -> torch.Tensor:
    """(B,): the loss of each image.

    log_p: (K, B) log p_k of the target class. confidence: (K, B), the logits of h_k. log_backbone: (B,) log p of
    the target class. cost: (K,) c_k. In logarithms, because h soon is 0 or 1 to float32 and log(1 − h) would be −∞.
    """
    stay, go = logsigmoid(-confidence), logsigmoid(confidence)
    log_mixture, paid, at = log_backbone, torch.ones_like(log_backbone), []
    for k in reversed(range(len(log_p))):
        log_mixture = torch.logaddexp(go[k] + log_p[k], stay[k] + log_mixture)
        paid = go[k].exp() * cost[k] + stay[k].exp() * paid
        at.append(cost_weight * paid - log_mixture)
    return at[-1] if version == "v1" else torch.stack(at).mean(0)


def train(
    cascade: Cascade,
    loader: Epochs,
    target: dict[str, Any],
    settings: dict[str, Any],
    costs: Costs,
    seed: int,
    device: torch.device,
    label: str,
) -> list[float]:
    """Minimise the batch mean of `losses`; returns each epoch's mean loss."""
    check_target("pteenet", target["name"], "target")
    shares = torch.tensor(costs.by_exit_alone() / costs.backbone, dtype=torch.float32, device=device)
    cascade.to(device).train()
    options = dict(settings)
    version, cost_weight = options.pop("version"), options.pop("cost_weight")

    def loss(batch: Any) -> torch.Tensor:
        said = cascade([tap.float() for tap in batch.taps])
        truth = (batch.labels if target["name"] == "labels" else batch.log_softmax.argmax(1))[:, None]
        log_p = torch.stack([logits.log_softmax(1).gather(1, truth).squeeze(1) for logits, _ in said])
        confidence = torch.stack([logit for _, logit in said])
        log_backbone = batch.log_softmax.gather(1, truth).squeeze(1)
        return losses(log_p, confidence, log_backbone, shares, version, cost_weight).mean()

    return fit(cascade.parameters(), loader, loss, label, **options)
