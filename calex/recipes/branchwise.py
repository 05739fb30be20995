"""Each branch learns by itself, on weighted images; a weighting that looks at earlier branches makes it a chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from calex import plugins
from calex.branches import Branch
from calex.features.loader import Batch
from calex.recipes._fit import Epochs, fit

JOINT = False

# epochs over the training images. batch_size in images. learning_rate: AdamW's, its peak; it decays to 0 as
# a cosine. weight_decay: AdamW's, decoupled.
# importance: `weigh` multiplies an image's loss by its weight, `draw` shows it so much more often.
OPTIONS = {"epochs": 30, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 0.0001, "importance": "weigh"}
CHOICES = {"importance": ["weigh", "draw"]}
# BatchNorm needs two images.
RANGES = {"epochs": "[1, inf)", "batch_size": "[2, inf)", "learning_rate": "(0, inf)", "weight_decay": "[0, inf)"}


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
    branch.to(device).train()
    draw = settings["importance"] == "draw"
    importance = torch.from_numpy(np.ones_like(weights, np.float32) if draw else weights.astype(np.float32)).to(device)

    def loss(batch: Any) -> torch.Tensor:
        logits, confidence = branch(batch.taps[0].float())
        truth = batch.labels if correct == "label" else batch.log_softmax.argmax(1)
        right = (logits.detach().argmax(1) == truth).float()
        each = loss_of(logits, batch.log_softmax, batch.labels, **options)
        each = each + F.binary_cross_entropy_with_logits(confidence, right, reduction="none")
        return (importance[batch.view, batch.position] * each).mean()

    shown = Drawn(loader, weights) if draw else loader
    return fit(
        branch.parameters(),
        shown,
        loss,
        label,
        schedule="cosine",
        **{key: settings[key] for key in settings if key != "importance"},
    )


class Drawn:
    """Epochs in which images come as often as their weights say."""

    def __init__(self, loader: Any, weights: np.ndarray) -> None:
        self.loader, self.weights = loader, weights

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, number: int) -> Iterator[Batch]:
        return self.loader.epoch(number, self.weights)
