"""What every recipe trains with: the description of a training job, the target's loss, and the loop over epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

from calex import plugins
from calex.branches.training_step import adamw
from calex.errors import CalexError
from calex.simulation.cost import Costs
from calex.system.progress import say, track

# The loss of logits (B, classes) for a batch: (B,).
TargetLosses = Callable[[torch.Tensor, Any], torch.Tensor]


class Epochs(Protocol):
    """What training needs of a feature loader: a number of batches, and an epoch of them."""

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> Iterable[Any]:
        """Yield the batches of epoch `number`, from 0; the number alone decides their order."""
        ...


@dataclass(frozen=True)
class TrainingJob:
    """What a recipe trains branches on.

    Parameters
    ----------
    loader : Epochs
        Shuffled batches of the training images: `taps`, of each branch (B, C, H, W) float16; `log_softmax` (B, C), the
        backbone's; `labels`, `position` and `view` (B,) int64.
    target : dict
        The config's block: a target's name and its options.
    settings : dict
        The recipe's options.
    seed : int
        Of initial weights and the order of images.
    device : torch.device
        Where to train.
    label : str
        What messages begin with.
    weights : (V, N) float64 or None
        How much each view of each image counts, with mean 1; None: all the same.
    correct : {"label", "backbone"}
        What a confidence learns to predict: that the answer equals the label, or the backbone's.
    costs : Costs or None
        FLOPs of each exit, for recipes that train a whole cascade.
    depth : float or None
        Where a branch that trains by itself sits, 0 for the first and 1 for the last, see `depth_of`; None for a cascade.
    """

    loader: Any
    target: dict[str, Any]
    settings: dict[str, Any]
    seed: int
    device: torch.device
    label: str
    weights: np.ndarray | None = None
    correct: str = "label"
    costs: Costs | None = None
    depth: float | None = None

    def target_losses(self, depth: float | None = None) -> TargetLosses:
        """Give the target's loss of a branch's logits (B, classes) for a batch: (B,); without `depth` of the job's branch."""
        target, options = plugins.load("targets", self.target["name"]), plugins.options_of(self.target)
        if getattr(target, "DEPTH", False):
            options["depth"] = self.depth if depth is None else depth
            if options["depth"] is None:
                raise CalexError(
                    f"{self.label}: the target '{self.target['name']}' depends on where a branch sits, and the recipe asks one loss "
                    "of all; it should take job.losses_of_exits() or job.summed_loss()"
                )
        return lambda logits, batch: target.losses(logits, batch.log_softmax, batch.labels, **options)

    def losses_of_exits(self) -> Callable[[Iterable[torch.Tensor], Any], torch.Tensor]:
        """Give the target's losses of all exits' logits, (B, classes) each, for a batch: (exits, B)."""
        at_depth = cache(self.target_losses)

        def losses(all_logits: Iterable[torch.Tensor], batch: Any) -> torch.Tensor:
            exits = list(all_logits)
            return torch.stack([at_depth(depth_of(k, len(exits)))(logits, batch) for k, logits in enumerate(exits)])

        return losses

    def summed_loss(self) -> Callable[[Iterable[torch.Tensor], Any], torch.Tensor]:
        """Give the target's loss of all exits' logits for a batch, summed over exits, mean over images."""
        losses = self.losses_of_exits()
        return lambda all_logits, batch: losses(all_logits, batch).sum(0).mean()


def depth_of(branch: int, count: int) -> float:
    """Where a branch, from 0, sits among so many: 0 for the first, 1 for the last, evenly between."""
    return branch / (count - 1) if count > 1 else 0.0


def rate(schedule: str, at: float, epochs: int, milestone: int = 0) -> float:
    """Compute the share of the learning rate that is used after `at` epochs.

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
    steady: bool = False,
) -> list[float]:
    """Minimise by AdamW what `loss_of` gives for a batch, a mean over its images.

    Without weight decay AdamW is Adam.

    Parameters
    ----------
    parameters : iterable of torch.nn.Parameter
        What is learnt.
    loader : Epochs
        Batches; those of one image are left out, because BatchNorm cannot learn from them.
    loss_of : callable
        From a batch to a scalar.
    label : str
        What messages begin with.
    epochs, batch_size, learning_rate, weight_decay, schedule, milestone
        A recipe's options; see `rate` for the schedule. The loader decides the size of batches.
    prefix : str
        Of the option that an error names.
    steady : bool
        Whether `loss_of` does the same for every batch of a size: then it is recorded once on a GPU and replayed. One that
        counts batches, trains in turns or reads values back must not say so: what it decides would be decided once for all.

    Returns
    -------
    list of float
        The mean loss of each epoch.

    Raises
    ------
    CalexError
        If the loss is no longer finite.
    """
    step = adamw(list(parameters), loss_of, learning_rate, weight_decay, steady)
    history: list[float] = []
    for epoch in track(range(epochs), label, epochs, "epochs"):
        total, seen = torch.zeros(()), 0
        for number, batch in enumerate(loader.epoch(epoch)):
            if len(batch.position) == 1:
                continue  # BatchNorm cannot learn from a single image; in other epochs it comes with others
            step.set_rate(learning_rate * rate(schedule, epoch + number / len(loader), epochs, milestone))
            loss = step(batch)
            # Read once per epoch, because reading waits for the device.
            total = total.to(loss.device) + loss * len(batch.position)
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
