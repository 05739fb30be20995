"""A branch: a head's core over a pooled tap, a linear classifier on it, and a confidence output."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from calex import flops, plugins


class Branch(nn.Module):
    """(B, C, H, W) → logits (B, classes) and confidence logits (B,).

    The confidence head has a core of its own, unless `shared_core`. Its gradient never reaches the classifier
    through its target, only through a shared core.
    """

    def __init__(self, head: dict[str, Any], shape: tuple[int, int, int], classes: int, shared_core: bool) -> None:
        super().__init__()
        plugin, options = plugins.load("heads", head["name"]), plugins.options_of(head)
        self.core = plugin.build(*shape, **options)
        self.classifier = nn.Linear(self.core.width, classes)
        self.confidence_core = None if shared_core else plugin.build(*shape, **options)
        self.confidence = nn.Linear(self.core.width, 1)
        self.together = getattr(plugin, "together", one_by_one)
        self.shape = shape

    def classify(self, feature_map: torch.Tensor) -> torch.Tensor:
        """(B, classes): the logits alone, all that a score read off the softmax needs."""
        return self.classifier(self.core(feature_map))

    def forward(self, feature_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.confidence_core is None:
            core = doubt = self.core(feature_map)
        else:
            core, doubt = self.together([self.core, self.confidence_core], feature_map)
        return self.classifier(core), self.confidence(doubt).squeeze(1)

    def flops(self) -> tuple[int, int]:
        """FLOPs of one image: of the classifier alone, and with the confidence head."""
        frozen = self.eval()
        return flops.of(_Classifier(frozen), *self.shape), flops.of(frozen, *self.shape)


def one_by_one(cores: Sequence[nn.Module], feature_map: torch.Tensor) -> list[torch.Tensor]:
    """What a head's own `together` may do faster: every core over the same map."""
    return [core(feature_map) for core in cores]


class _Classifier(nn.Module):
    """The part of a branch that is paid when its confidence head is not asked."""

    def __init__(self, branch: Branch) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return self.branch.classify(feature_map)


@torch.inference_mode()
def answers(branch: Branch, feature_maps: Iterable[torch.Tensor]) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities (N, classes) and confidences (N,), float32, over batches of one split in order."""
    branch.eval()
    log_probabilities, confidences = [], []
    for batch in feature_maps:
        logits, confidence = branch(batch)
        log_probabilities.append(logits.log_softmax(1).cpu().numpy())
        confidences.append(confidence.sigmoid().cpu().numpy())
    return np.concatenate(log_probabilities), np.concatenate(confidences)
