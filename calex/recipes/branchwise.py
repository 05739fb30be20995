"""Each branch learns by itself, on weighted images; a weighting that looks at earlier branches makes it a chain."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from calex import plugins
from calex.branches import Branch
from calex.errors import CalexError
from calex.progress import say, track

# epochs over the training images. batch_size in images. learning_rate: Adam's, its peak; it decays to 0 as a
# cosine. weight_decay: decoupled (AdamW).
OPTIONS = {"epochs": 30, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 0.0001}
# BatchNorm needs two images.
RANGES = {"epochs": "[1, inf)", "batch_size": "[2, inf)", "learning_rate": "(0, inf)", "weight_decay": "[0, inf)"}


class Epochs(Protocol):
    """What the recipe needs of a feature loader."""

    def __len__(self) -> int: ...

    def epoch(self, number: int) -> Iterable[Any]: ...


def train(
    branch: Branch,
    loader: Epochs,
    weights: np.ndarray,
    target: dict[str, Any],
    settings: dict[str, Any],
    correct: str,
    device: torch.device,
    label: str,
) -> list[float]:
    """Minimise the batch mean of w·(target loss + confidence loss); returns each epoch's mean loss.

    weights: (V, N) with mean 1, aligned with the store's rows. The confidence head learns by binary cross-entropy
    whether the classifier's answer is `correct` (equal to the label, or to the backbone's answer).
    """
    loss_of = plugins.load("targets", target["name"]).losses
    options = plugins.options_of(target)
    epochs = settings["epochs"]
    branch.to(device).train()
    optimizer = torch.optim.AdamW(
        branch.parameters(), lr=settings["learning_rate"], weight_decay=settings["weight_decay"], fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(epochs * len(loader), 1))
    importance = torch.from_numpy(np.ascontiguousarray(weights, np.float32)).to(device)
    history = []
    for epoch in track(range(epochs), label, epochs, "epochs"):
        total, seen = torch.zeros((), device=device), 0
        for batch in loader.epoch(epoch):
            if len(batch.position) == 1:
                continue  # BatchNorm cannot learn from a single image; another epoch shows it in company
            logits, confidence = branch(batch.taps[0].float())
            truth = batch.labels if correct == "label" else batch.log_softmax.argmax(1)
            right = (logits.detach().argmax(1) == truth).float()
            each = loss_of(logits, batch.log_softmax, batch.labels, **options)
            each = each + F.binary_cross_entropy_with_logits(confidence, right, reduction="none")
            loss = (importance[batch.view, batch.position] * each).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.detach() * len(right)
            seen += len(right)
        history.append(float(total) / max(seen, 1))
        if not math.isfinite(history[-1]):
            raise CalexError(f"{label}: the loss became {history[-1]} in epoch {epoch + 1}; lower recipe.learning_rate")
    say(
        f"{label}: loss {history[0]:.4f} at first, {history[-1]:.4f} after {epochs} epochs"
        if history
        else f"{label}: untrained"
    )
    return history
