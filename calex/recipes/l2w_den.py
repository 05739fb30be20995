"""L2W-DEN: a small network weighs each exit's loss of each image, and is itself learnt (Han et al., ECCV 2022).

The weights that a batch's losses give should help those who will leave: after one virtual step with them on one half of a batch,
the other half's loss counts each image only at the exit that it would take. Exits are assigned by the softmax's maximum, with
shares ∝ 0.75^k of a batch; the weights are 1 + ε·(2·σ(net) − 1), and have mean 1 over a batch's images at each exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from calex.branches.branch import Branches, Classifier, seeded
from calex.branches.fitting import TrainingJob, fit

JOINT = True
SCORES = ["max_softmax", "margin", "entropy"]

# share: the factor from one exit's share to the next. spread: ε. hidden: width of the weighing network. meta_learning_rate: its
# Adam's. virtual_rate: of the virtual step. period: batches from one step of the weighing network to the next. The others as in
# `branchwise`; schedule of the learning rate.
OPTIONS = {
    "share": 0.75,
    "spread": 0.8,
    "hidden": 100,
    "meta_learning_rate": 0.001,
    "virtual_rate": 0.1,
    "period": 10,
    "epochs": 30,
    "batch_size": 128,
    "learning_rate": 0.001,
    "weight_decay": 0.0,
    "schedule": "cosine",
}
CHOICES = {"schedule": ["constant", "cosine"]}
RANGES = {
    "share": "(0, inf)",
    "spread": "[0, 1]",
    "hidden": "[1, inf)",
    "meta_learning_rate": "(0, inf)",
    "virtual_rate": "(0, inf)",
    "period": "[1, inf)",
    "epochs": "[1, inf)",
    "batch_size": "[4, inf)",
    "learning_rate": "(0, inf)",
    "weight_decay": "[0, inf)",
}


class Weigher(nn.Sequential):
    """From an image's losses at all exits to a weight for each: (B, K) → (B, K), of mean 1 over the images."""

    def __init__(self, exits: int, hidden: int, spread: float) -> None:
        last = nn.Linear(hidden, exits)
        nn.init.zeros_(last.weight)  # all weights are 1 at first
        nn.init.zeros_(last.bias)
        super().__init__(nn.Linear(exits, hidden), nn.ReLU(), last)
        self.spread = spread

    def forward(self, losses: torch.Tensor) -> torch.Tensor:
        """Weigh images by their losses (B, K), of which no gradient is taken."""
        weights = 1 + self.spread * (2 * super().forward(losses.detach()).sigmoid() - 1)
        return weights / weights.mean(0, keepdim=True)


def assigned(max_softmax: torch.Tensor, share: float) -> torch.Tensor:
    """Assign images to exits: (K, B) float32, 1 where an image leaves.

    Exit k = 1..K gets a part ∝ share^k of the B images: of those that remain the ones with the largest maximum; the last gets the
    rest. max_softmax: (K, B).
    """
    exits, images = max_softmax.shape
    parts = torch.tensor([share**k for k in range(1, exits + 1)], dtype=torch.float64)
    ends = (parts.cumsum(0) / parts.sum() * images).round().long().tolist()
    leaves = torch.zeros_like(max_softmax)
    staying = torch.ones(images, dtype=torch.bool, device=max_softmax.device)
    before = 0
    for k, end in enumerate(ends):
        ranked = max_softmax[k].masked_fill(~staying, -1.0).argsort(descending=True, stable=True)
        out = ranked[: end - before]
        leaves[k, out], staying[out], before = 1.0, False, end
    return leaves


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Branches:
    """Build untrained branches, one for each tap of shape (C, H, W), each from a seed of its own."""
    return Branches(Classifier(head, shapes[k], classes) for k in seeded(seed, len(shapes)))


def train(cascade: Branches, job: TrainingJob) -> list[float]:
    """Minimise the weighted sum of losses, and now and then the weighing network's; gives each epoch's mean loss."""
    losses_of_exits, options = job.losses_of_exits(), dict(job.settings)
    names = ("share", "spread", "hidden", "meta_learning_rate", "virtual_rate", "period")
    share, spread, hidden, meta_rate, virtual_rate, period = (options.pop(name) for name in names)
    torch.manual_seed(1000 * job.seed)
    weigher = Weigher(len(cascade.branches), hidden, spread).to(job.device)
    optimizer = torch.optim.Adam(weigher.parameters(), lr=meta_rate)
    cascade.to(job.device).train()
    batches = 0

    def all_losses(outputs: Any, batch: Any) -> torch.Tensor:
        return losses_of_exits([output.logits for output in outputs], batch).T

    def learn_weights(taps: list[torch.Tensor], batch: Any) -> None:
        half = len(batch.labels) // 2
        first, second = ([tap[part] for tap in taps] for part in (slice(half), slice(half, None)))
        own, other = part_of(batch, slice(half)), part_of(batch, slice(half, None))
        state = {name: value.clone() for name, value in cascade.named_buffers()}  # a virtual step leaves no trace in them
        parameters: dict[str, torch.Tensor] = dict(cascade.named_parameters())
        losses = all_losses(functional_call(cascade, (parameters, state), (first,)), own)
        weighted = (weigher(losses) * losses).sum(1).mean()
        slopes = torch.autograd.grad(weighted, list(parameters.values()), create_graph=True, allow_unused=True)
        stepped = {
            name: value if slope is None else value - virtual_rate * slope
            for (name, value), slope in zip(parameters.items(), slopes, strict=True)
        }
        outputs = functional_call(cascade, (stepped, state), (second,))
        maximum = torch.stack([output.logits.detach().softmax(1).amax(1) for output in outputs])
        meta = (assigned(maximum, share).T * all_losses(outputs, other)).sum(1).mean()
        grads = torch.autograd.grad(meta, list(weigher.parameters()))
        for parameter, grad in zip(weigher.parameters(), grads, strict=True):
            parameter.grad = grad
        optimizer.step()

    def loss(batch: Any) -> torch.Tensor:
        nonlocal batches
        taps = [tap.float() for tap in batch.taps]
        if batches % period == 0 and len(batch.labels) >= 4:  # BatchNorm needs two images in each half
            learn_weights(taps, batch)
        batches += 1
        losses = all_losses(cascade(taps), batch)
        with torch.no_grad():
            weights = weigher(losses)
        return (weights * losses).sum(1).mean()

    return fit(cascade.parameters(), job.loader, loss, job.label, **options)


def part_of(batch: Any, part: slice) -> Any:
    """Take some of a batch's images, for the target's loss."""
    return type(batch)([], batch.log_softmax[part], batch.labels[part], batch.position[part], batch.view[part])
