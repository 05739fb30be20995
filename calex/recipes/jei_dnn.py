"""JEI-DNN: gates that learn when leaving is worth it, and classifiers that learn from those who leave (Regol et al., ICLR 2024).

A gate is a logistic regression on four numbers of its branch's softmax. Where leaving at exit l costs least, by
CE_l + λ·c_l with the backbone as the last exit, the gates of exits k ≥ l should open. After a warm-up of the classifiers, gates
and classifiers take turns; a classifier's loss is weighted with the chance that an image leaves there. One training for each λ.

The weights are constants to the classifiers. The released code multiplies by a ratio that is not one: its value is always 1, so that
it weighs nothing, which `weighted: false` is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from calex.branches.branch import Branches, BranchOutput, Classifier, seeded
from calex.branches.fitting import TrainingJob, fit
from calex.system import flops
from calex.system.progress import say

JOINT = True
WARMUP = True
TARGETS = ["labels", "argmax"]

# cost_weight: λ, in units of the loss for the whole backbone. warmup: epochs of the classifiers alone. period: batches after which gates
# and classifiers change over. weighted: whether the classifiers' loss is. The others as in `branchwise`.
OPTIONS = {
    "cost_weight": 1.0,
    "warmup": 10,
    "period": 200,
    "weighted": True,
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "schedule": "constant",
}
CHOICES = {"schedule": ["constant", "cosine"]}
RANGES = {
    "cost_weight": "[0, inf)",
    "warmup": "[0, inf)",
    "period": "[1, inf)",
    "epochs": "[1, inf)",
    "batch_size": "[2, inf)",
    "learning_rate": "(0, inf)",
    "weight_decay": "[0, inf)",
}


def gate_inputs(logits: torch.Tensor) -> torch.Tensor:
    """Compute max p, H(p), p₁ − p₂ and H(p² / Σp²) of each softmax: (B, classes) → (B, 4), without a gradient."""
    log_p = logits.detach().log_softmax(1)
    top = log_p.topk(min(2, log_p.shape[1]), dim=1).values.exp()
    sharper = (2 * log_p).log_softmax(1)
    entropies = [-(each.exp() * each).sum(1) for each in (log_p, sharper)]
    return torch.stack([top[:, 0], entropies[0], top[:, 0] - top[:, -1], entropies[1]], dim=1)


class GatedBranch(Classifier):
    """A classifier and its gate, whose output is the confidence."""

    def __init__(self, head: dict[str, Any], shape: tuple[int, int, int], classes: int) -> None:
        super().__init__(head, shape, classes)
        self.gate = nn.Linear(4, 1)

    def forward(self, feature_map: torch.Tensor) -> BranchOutput:
        """Compute the branch's output for feature maps (B, C, H, W) float32."""
        logits = self.classify(feature_map)
        return BranchOutput(logits, self.gate(gate_inputs(logits)).squeeze(1))

    def flops(self) -> tuple[int, int]:
        """FLOPs of one image: of the classifier alone, and with the gate."""
        return super().flops()[0], flops.of(self.eval(), *self.shape)


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Branches:
    """Build untrained branches, one for each tap of shape (C, H, W), each from a seed of its own."""
    return Branches(GatedBranch(head, shapes[k], classes) for k in seeded(seed, len(shapes)))


def gate_targets(losses: torch.Tensor, cost: torch.Tensor, cost_weight: float) -> torch.Tensor:
    """Tell which gates should open: 1 from the exit on at which loss and cost are least, else 0.

    losses: (K + 1, B), the backbone's last. cost: (K + 1,), as shares of the backbone. Returns (K, B) float32.
    """
    best = (losses.detach() + cost_weight * cost[:, None]).argmin(0)
    return (torch.arange(len(losses) - 1, device=losses.device)[:, None] >= best).float()


def chances(gates: torch.Tensor) -> torch.Tensor:
    """Compute the chance that an image leaves at each branch from the gates' logits, (K, B) both, without a gradient."""
    opens = gates.detach().sigmoid()
    reaches = torch.cat([torch.ones_like(opens[:1]), (1 - opens).cumprod(0)[:-1]])
    return opens * reaches


def train(cascade: Branches, job: TrainingJob) -> list[float]:
    """Train classifiers and gates in turns; gives each epoch's mean loss, of whichever learnt."""
    assert job.costs is not None
    losses_of, options = job.target_losses(), dict(job.settings)
    cost_weight, warmup, period, weighted = (options.pop(name) for name in ("cost_weight", "warmup", "period", "weighted"))
    cost = torch.tensor(job.costs.by_exit() / job.costs.backbone, dtype=torch.float32, device=job.device)
    cascade.to(job.device).train()
    turns = (options["epochs"] - warmup) * len(job.loader) / period
    if turns < 2:
        say(
            f"{job.label}: after the warm-up of {warmup} epochs follow {turns:.1f} periods of {period} batches, too few for gates and "
            "classifiers to learn in turns; lower recipe.period"
        )
    batches = 0

    def loss(batch: Any) -> torch.Tensor:
        nonlocal batches
        turn, batches = batches - warmup * len(job.loader), batches + 1
        outputs = cascade([tap.float() for tap in batch.taps])
        losses = torch.stack([losses_of(output.logits, batch) for output in outputs])
        if turn < 0:
            return losses.sum(0).mean()
        gates = torch.stack([output.confidence for output in outputs])
        if turn // period % 2 == 0:
            everyone = torch.cat([losses, losses_of(batch.log_softmax, batch)[None]])
            wanted = gate_targets(everyone, cost, cost_weight)
            return F.binary_cross_entropy_with_logits(gates, wanted, reduction="none").sum(0).mean()
        return ((chances(gates) if weighted else 1) * losses).sum(0).mean()

    return fit(cascade.parameters(), job.loader, loss, job.label, **options)
