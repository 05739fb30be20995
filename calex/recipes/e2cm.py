"""E²CM: an exit answers the class whose mean is nearest to the image's features, and trains nothing (Görmez et al., IJCNN 2022).

p_c ∝ exp(−‖x − m_c‖ / T) with m_c the mean of the training images of class c. The products with the means are a linear layer,
which counts as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from calex.branches.branch import Branches, Classifier, seeded
from calex.branches.fitting import TrainingJob
from calex.errors import CalexError
from calex.system.progress import say, warn

JOINT = True
SCORES = ["max_softmax", "margin", "entropy"]
TARGETS = ["labels", "argmax"]

# temperature: T. batch_size: images; nothing depends on it.
OPTIONS = {"temperature": 1.0, "batch_size": 512}
RANGES = {"temperature": "(0, inf)", "batch_size": "[2, inf)"}

NOWHERE = -1e4  # the logit of a class without training images


class NearestMean(Classifier):
    """Logits −‖x − m_c‖ / T: ‖x − m‖² is ‖x‖² − 2(x·m − ‖m‖²/2), so that the classifier holds m and −‖m‖²/2."""

    def __init__(self, head: dict[str, Any], shape: tuple[int, int, int], classes: int, temperature: float) -> None:
        super().__init__(head, shape, classes)
        if any(True for _ in self.core.parameters()):
            raise CalexError(f"head.name: the recipe 'e2cm' trains nothing, but '{head['name']}' has weights; use flat")
        self.temperature = temperature
        self.absent: torch.Tensor
        self.register_buffer("absent", torch.zeros(classes, dtype=torch.bool))
        self.classifier.requires_grad_(False)

    def classify(self, feature_map: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        """(B, classes): the scaled negative distances."""
        x = self.core(feature_map)
        squared = x.square().sum(1, keepdim=True) - 2 * self.classifier(x)
        return (-squared.clamp(min=0).sqrt() / self.temperature).masked_fill(self.absent, NOWHERE)

    def set_means(self, means: torch.Tensor, present: torch.Tensor) -> None:
        """Take the means of the classes, (classes, D), of which only those `present` have images."""
        self.classifier.weight.data.copy_(means)
        self.classifier.bias.data.copy_(-means.square().sum(1) / 2)
        self.absent.copy_(~present)


def build(
    head: dict[str, Any],
    shapes: Sequence[tuple[int, int, int]],
    classes: int,
    shared_core: bool,
    settings: dict[str, Any],
    seed: int,
) -> Branches:
    """Build branches without means, one for each tap of shape (C, H, W)."""
    return Branches(NearestMean(head, shapes[k], classes, settings["temperature"]) for k in seeded(seed, len(shapes)))


@torch.no_grad()
def train(cascade: Branches, job: TrainingJob) -> list[float]:
    """Average the features of each class over one pass; there is no loss."""
    cascade.to(job.device)
    branches: list[Any] = list(cascade.branches)
    classes = branches[0].classifier.out_features
    sums = [torch.zeros_like(branch.classifier.weight, dtype=torch.float64) for branch in branches]
    counts = torch.zeros(classes, dtype=torch.float64, device=job.device)
    for batch in job.loader.epoch(0):
        labels = batch.labels if job.target["name"] == "labels" else batch.log_softmax.argmax(1)
        counts.index_add_(0, labels, torch.ones_like(labels, dtype=torch.float64))
        for total, branch, tap in zip(sums, branches, batch.taps, strict=True):
            total.index_add_(0, labels, branch.core(tap.float()).double())
    for total, branch in zip(sums, branches, strict=True):
        branch.set_means((total / counts.clamp(min=1)[:, None]).float(), counts > 0)
    say(f"{job.label}: means of {int((counts > 0).sum())} classes over {int(counts.sum())} images")
    if missing := int((counts == 0).sum()):
        warn(f"{job.label}: {missing} of {classes} classes have no training images and are never answered")
    return []
