"""A branch: a head's core over a pooled tap, a linear classifier on it, and a confidence output. A cascade: K of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from calex import flops, plugins

# Of a batch: logits (B, classes), of which the softmax is what a branch answers, and confidence logits (B,) or None.
Answer = tuple[torch.Tensor, torch.Tensor | None]


class Classifier(nn.Module):
    """A branch without a confidence output: (B, C, H, W) → logits (B, classes).

    extra: how many numbers besides the core's the classifier reads, (B, extra); they are zeros where none are given.
    """

    def __init__(self, head: dict[str, Any], shape: tuple[int, int, int], classes: int, extra: int = 0) -> None:
        super().__init__()
        self.core = plugins.load("heads", head["name"]).build(*shape, **plugins.options_of(head))
        self.classifier = nn.Linear(self.core.width + extra, classes)
        self.shape, self.extra = shape, extra

    def classify(self, feature_map: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        """(B, classes): the logits alone, all that a score read off the softmax needs."""
        core = self.core(feature_map)
        if self.extra:
            core = torch.cat((core, core.new_zeros(len(core), self.extra) if extra is None else extra), dim=1)
        return self.classifier(core)

    def forward(self, feature_map: torch.Tensor) -> Answer:
        return self.classify(feature_map), None

    def flops(self) -> tuple[int, int | None]:
        """FLOPs of one image: of the classifier alone, and with the confidence head, if there is one."""
        return flops.of(_Classifying(self.eval()), *self.shape), None


class Branch(Classifier):
    """(B, C, H, W) → logits (B, classes) and confidence logits (B,).

    The confidence head has a core of its own, unless `shared_core`. Its gradient never reaches the classifier
    through its target, only through a shared core.
    """

    def __init__(self, head: dict[str, Any], shape: tuple[int, int, int], classes: int, shared_core: bool) -> None:
        super().__init__(head, shape, classes)
        plugin, options = plugins.load("heads", head["name"]), plugins.options_of(head)
        self.confidence_core = None if shared_core else plugin.build(*shape, **options)
        self.confidence = nn.Linear(self.core.width, 1)
        self.together = getattr(plugin, "together", one_by_one)

    def forward(self, feature_map: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.confidence_core is None:
            core = doubt = self.core(feature_map)
        else:
            core, doubt = self.together([self.core, self.confidence_core], feature_map)
        return self.classifier(core), self.confidence(doubt).squeeze(1)

    def flops(self) -> tuple[int, int]:
        return super().flops()[0], flops.of(self.eval(), *self.shape)


def one_by_one(cores: Sequence[nn.Module], feature_map: torch.Tensor) -> list[torch.Tensor]:
    """What a head's own `together` may do faster: every core over the same map."""
    return [core(feature_map) for core in cores]


class _Classifying(nn.Module):
    """The part of a branch that is paid when its confidence head is not asked."""

    def __init__(self, branch: Classifier) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return self.branch.classify(feature_map)


class Cascade(nn.Module):
    """K branches over K taps. A recipe whose exits are more than its branches overrides `forward`."""

    def __init__(self, branches: Iterable[Classifier]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, taps: Sequence[torch.Tensor]) -> list[Answer]:
        """What each exit answers."""
        return [branch(tap) for branch, tap in zip(self.branches, taps, strict=True)]


def seed_branch(seed: int, k: int) -> None:
    """Set torch's generator for the weights of branch k: they begin alike, whatever the other branches are."""
    torch.manual_seed(1000 * seed + k)


def seeded(seed: int, count: int) -> Iterator[int]:
    """1..K, each with its generator set."""
    for k in range(1, count + 1):
        seed_branch(seed, k)
        yield k


@torch.inference_mode()
def answers(cascade: Cascade, taps: Iterable[Sequence[torch.Tensor]]) -> list[tuple[np.ndarray, np.ndarray | None]]:
    """Of each exit: log-probabilities (N, classes) and confidences (N,) or None, float32, over a split's batches in order."""
    cascade.eval()
    batches = [
        [
            (logits.log_softmax(1).cpu().numpy(), None if confidence is None else confidence.sigmoid().cpu().numpy())
            for logits, confidence in cascade([tap.float() for tap in batch])
        ]
        for batch in taps
    ]
    return [
        (
            np.concatenate([said for said, _ in of_exit]),
            None if of_exit[0][1] is None else np.concatenate([c for _, c in of_exit]),
        )
        for of_exit in zip(*batches, strict=True)
    ]
