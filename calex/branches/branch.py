"""A branch: a head's core over a pooled tap, a linear classifier on it, and a confidence output; and K of them together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from calex import plugins, recipes
from calex.simulation.exits_file import BranchPredictions
from calex.system import flops


class BranchOutput(NamedTuple):
    """What an exit gives for a batch: logits (B, classes), and the confidence's logits (B,) or None."""

    logits: torch.Tensor
    confidence: torch.Tensor | None


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

    def forward(self, feature_map: torch.Tensor) -> BranchOutput:
        """Compute the branch's output for feature maps (B, C, H, W) float32."""
        return BranchOutput(self.classify(feature_map), None)

    def flops(self) -> tuple[int, int | None]:
        """FLOPs of one image: of the classifier alone, and with the confidence head, if there is one."""
        return flops.of(_WithoutConfidence(self.eval()), *self.shape), None


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
        self.forward_fused = getattr(plugin, "forward_fused", forward_separately)

    def forward(self, feature_map: torch.Tensor) -> BranchOutput:
        """Compute the branch's output for feature maps (B, C, H, W) float32."""
        if self.confidence_core is None:
            features = confidence_features = self.core(feature_map)
        else:
            features, confidence_features = self.forward_fused([self.core, self.confidence_core], feature_map)
        return BranchOutput(self.classifier(features), self.confidence(confidence_features).squeeze(1))

    def flops(self) -> tuple[int, int]:
        """FLOPs of one image: of the classifier alone, and with the confidence head."""
        return super().flops()[0], flops.of(self.eval(), *self.shape)


def forward_separately(cores: Sequence[nn.Module], feature_map: torch.Tensor) -> list[torch.Tensor]:
    """Run each core over the same map, which a head's own `forward_fused` may do faster."""
    return [core(feature_map) for core in cores]


class _WithoutConfidence(nn.Module):
    """The part of a branch that is paid for where the confidence head is not used."""

    def __init__(self, branch: Classifier) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, feature_map: torch.Tensor) -> torch.Tensor:
        return self.branch.classify(feature_map)


class Branches(nn.Module):
    """K branches over K taps. A recipe whose exits are more than its branches overrides `exit`."""

    def __init__(self, branches: Iterable[Classifier]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def exit(
        self, k: int, tap: torch.Tensor, before: torch.Tensor | None, confidence: bool = True
    ) -> tuple[BranchOutput, torch.Tensor | None]:
        """Compute the output of exit k, from 0, and what the next exit needs of it.

        Parameters
        ----------
        k : int
            Which exit; those before it have been computed for the same images.
        tap : (B, C, H, W) float32
            Its feature map.
        before : (B, …) or None
            What exit k − 1 gave as the second; None for the first exit, and where exits know nothing of each other.
        confidence : bool
            Whether the confidence output is needed; without it a branch may leave it out.
        """
        branch = self.branches[k]
        return branch(tap) if confidence else BranchOutput(branch.classify(tap), None), None  # type: ignore[operator]

    def forward(self, taps: Sequence[torch.Tensor]) -> list[BranchOutput]:
        """Compute the output of each exit for a batch of K feature maps (B, C, H, W) float32."""
        if len(taps) != len(self.branches):
            raise ValueError(f"{len(self.branches)} branches read as many taps, not {len(taps)}")
        outputs: list[BranchOutput] = []
        before = None
        for k, tap in enumerate(taps):
            output, before = self.exit(k, tap, before)
            outputs.append(output)
        return outputs


def seed_branch(seed: int, branch: int) -> None:
    """Seed torch's generator for the weights of a branch, from 0: they begin alike, whatever the other branches are."""
    torch.manual_seed(1000 * seed + branch + 1)


def seeded(seed: int, count: int) -> Iterator[int]:
    """Count the branches from 0, each with its generator seeded."""
    for branch in range(count):
        seed_branch(seed, branch)
        yield branch


@torch.inference_mode()
def predict_log_proba(cascade: Branches, taps: Sequence[torch.Tensor]) -> list[BranchPredictions]:
    """Predict a batch of images, in order.

    Parameters
    ----------
    cascade : Branches
        In whatever mode; it is set to evaluation.
    taps : sequence of K tensors
        Their feature maps, (B, C, H, W) each.

    Returns
    -------
    list of BranchPredictions
        One of each exit.
    """
    cascade.eval()
    return [
        BranchPredictions(
            output.logits.log_softmax(1).cpu().numpy(),
            None if output.confidence is None else output.confidence.sigmoid().cpu().numpy(),
        )
        for output in cascade([tap.float() for tap in taps])
    ]


def head_for(head: dict[str, Any], backbone_flops: float, classes: int) -> dict[str, Any]:
    """A head's completed block with what it reads off the features (`FROM_FEATURES`): FLOPs of the backbone, and classes."""
    known = {"backbone_flops": backbone_flops, "classes": classes}
    wanted = plugins.constants("heads", head["name"]).get("FROM_FEATURES", [])
    return head | {key: known[key] for key in wanted if not head[key]}


def built(method: Mapping[str, Any], shapes: Sequence[tuple[int, int, int]], classes: int, seed: int) -> Branches:
    """Build the untrained branches of a method over taps of shapes (C, H, W).

    method: completed blocks `recipe` and `head` (with what it reads off the features), `shared_core`, and for branches that
    train one by one `confidence`, whether they have that output.
    """
    recipe, head, shared_core = (method[key] for key in ("recipe", "head", "shared_core"))
    if recipes.joint(recipe["name"]):
        options = plugins.options_of(recipe)
        return plugins.load("recipes", recipe["name"]).build(head, shapes, classes, shared_core, options, seed)
    return Branches(
        Branch(head, shapes[branch], classes, shared_core)
        if method["confidence"]
        else Classifier(head, shapes[branch], classes)
        for branch in seeded(seed, len(shapes))
    )
