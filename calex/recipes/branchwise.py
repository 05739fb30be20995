"""Each branch learns by itself, on weighted images; a weighting that looks at earlier branches makes it a chain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from calex.branches.branch import Classifier
from calex.branches.fitting import TrainingJob, fit
from calex.features.loader import Batch

JOINT = False

# epochs over the training images. batch_size in images. learning_rate: AdamW's, its peak; it decays to 0 as
# a cosine. weight_decay: AdamW's, decoupled.
# importance: `weigh` multiplies an image's loss by its weight, `draw` shows it so much more often.
OPTIONS = {"epochs": 30, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 0.0001, "importance": "weigh"}
CHOICES = {"importance": ["weigh", "draw"]}
# BatchNorm needs two images.
RANGES = {"epochs": "[1, inf)", "batch_size": "[2, inf)", "learning_rate": "(0, inf)", "weight_decay": "[0, inf)"}


def train(branch: Classifier, job: TrainingJob) -> list[float]:
    """Minimise the batch mean of w·(target loss + confidence loss); gives each epoch's mean loss.

    The confidence head, if the branch has one, learns by binary cross-entropy whether the classifier's answer is `job.correct`.
    """
    target_losses = job.target_losses()
    branch.to(job.device).train()
    loader, weights = job.loader, None
    if job.weights is not None and job.settings["importance"] == "draw":
        loader = WeightedSampler(loader, job.weights)
    elif job.weights is not None:
        weights = torch.from_numpy(job.weights.astype(np.float32)).to(job.device)

    def loss(batch: Any) -> torch.Tensor:
        logits, confidence = branch(batch.taps[0].float())
        losses = target_losses(logits, batch)
        if confidence is not None:
            truth = batch.labels if job.correct == "label" else batch.log_softmax.argmax(1)
            correct = (logits.detach().argmax(1) == truth).float()
            losses = losses + F.binary_cross_entropy_with_logits(confidence, correct, reduction="none")
        return (losses if weights is None else weights[batch.view, batch.position] * losses).mean()

    options = {key: value for key, value in job.settings.items() if key != "importance"}
    return fit(branch.parameters(), loader, loss, job.label, schedule="cosine", steady=True, **options)


class WeightedSampler:
    """Epochs in which images come as often as their weights (V, N) say."""

    def __init__(self, loader: Any, weights: np.ndarray) -> None:
        self.loader, self.weights = loader, weights

    def __len__(self) -> int:
        return len(self.loader)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield an epoch of images drawn in proportion to their weights."""
        return self.loader.epoch(number, self.weights)
