"""The loop that every recipe trains with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import torch

from calex import plugins
from calex.errors import CalexError
from calex.progress import say, track


class Epochs(Protocol):
    """What training needs of a feature loader: a number of batches, and an epoch of them."""

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> Iterable[Any]: ...


def summed(target: dict[str, Any]) -> Callable[[Iterable[torch.Tensor], Any], torch.Tensor]:
    """A loss of the logits (B, classes) of several exits for a batch: the target's, summed over exits, mean over images."""
    loss_of, options = plugins.load("targets", target["name"]).losses, plugins.options_of(target)

    def loss(all_logits: Iterable[torch.Tensor], batch: Any) -> torch.Tensor:
        each = [loss_of(logits, batch.log_softmax, batch.labels, **options) for logits in all_logits]
        return torch.stack(each).sum(0).mean()

    return loss


def rate(schedule: str, at: float, epochs: int, milestone: int = 0) -> float:
    """The share of the learning rate that is used after `at` epochs.

    schedule: `constant`, `cosine` to 0, or `step`, a tenth from the milestone on.
    """
    if schedule == "cosine":
        return (1 + math.cos(math.pi * at / epochs)) / 2
    return 0.1 if schedule == "step" and at >= milestone else 1.0


def fit(
    parameters: Iterable[torch.nn.Parameter],
    loader: Epochs,
    loss_of: Callable[[Any], torch.Tensor],
    label: str,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    weight_decay: float,
    schedule: str,
    milestone: int = 0,
    prefix: str = "",
) -> list[float]:
    """Minimise by AdamW what `loss_of` gives for a batch, a mean over its images; returns each epoch's mean loss.

    Without weight decay AdamW is Adam. A loss that is not finite is an error, which names options with the prefix.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True)
    history: list[float] = []
    for epoch in track(range(epochs), label, epochs, "epochs"):
        total, seen = torch.zeros(()), 0
        for number, batch in enumerate(loader.epoch(epoch)):
            if len(batch.position) == 1:
                continue  # BatchNorm cannot learn from a single image; another epoch shows it in company
            for group in optimizer.param_groups:
                group["lr"] = learning_rate * rate(schedule, epoch + number / len(loader), epochs, milestone)
            loss = loss_of(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            total = total.to(loss.device) + loss.detach() * len(batch.position)  # read once an epoch: reading waits
            seen += len(batch.position)
        history.append(float(total) / max(seen, 1))
        if not math.isfinite(history[-1]):
            raise CalexError(f"{label}: the loss became {history[-1]} in epoch {epoch + 1}; lower recipe.{prefix}learning_rate")
    say(
        f"{label}: loss {history[0]:.4f} at first, {history[-1]:.4f} after {epochs} epochs"
        if history
        else f"{label}: untrained"
    )
    return history
