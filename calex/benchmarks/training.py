"""How much faster is an epoch of branch training from the cache than one that runs the frozen backbone again?

The prototype head costs next to nothing, so that the cache decides. The default head costs so many FLOPs that they bound the ratio:
one that costs h of the backbone's forward pass is trained for three times that, so that recomputing takes at most (1 + 3h) / 3h times
as long. Its limits are shares of that bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from calex.backbones.build import build
from calex.backbones.taps import measure_taps, tapping
from calex.backbones.transform import to_input
from calex.benchmarks import Bench, Row, in_turn, row
from calex.benchmarks.dump import BATCH, CLASSES, POOL, TAPS, TRANSFORM, dump, made_up, prepared
from calex.branches.branch import Branch, Classifier
from calex.branches.fitting import TrainingJob
from calex.features.loader import Batch, Loader
from calex.features.store import open_store
from calex.heads import auto, prototype
from calex.recipes import branchwise
from calex.system.precision import autocast
from calex.targets import kl

# stem, images, least speed-up of branch 1 in float32 with the prototype head, and least share of what FLOPs allow with the default
# one. These shares are a little below what was first measured, so that a loss is seen: BatchNorm and ReLU take time and no FLOPs,
# and behind the first stem maps are so small that launching operations takes longest.
CASES = (("imagenet", 8192, 10.0, 0.15), ("cifar", 1024, 40.0, 0.3))
# Imported, so that an edit of either measures again.
HEAD = {"name": "prototype", **prototype.OPTIONS}
TARGET = {"name": "kl", **kl.OPTIONS}
RECIPE = {"epochs": 1, "batch_size": BATCH, "learning_rate": 0.001, "weight_decay": 0.0, "importance": "weigh"}


class Recomputing:
    """The loader that most code has: images through the frozen backbone, every epoch anew."""

    def __init__(
        self, model: torch.nn.Module, images: np.ndarray, labels: np.ndarray, tap: str, compute: str, device: torch.device
    ):
        self.model, self.images, self.tap, self.compute, self.device = model, images, tap, compute, device
        self.labels = torch.from_numpy(labels).to(device)

    def __len__(self) -> int:
        return -(-len(self.images) // BATCH)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Run the backbone on every image, in the random order of this epoch."""
        order = np.random.default_rng(number).permutation(len(self.images))
        with tapping(self.model, [self.tap], POOL) as outputs:
            for start in range(0, len(order), BATCH):
                rows = order[start : start + BATCH]
                inputs = to_input(self.images[rows], **TRANSFORM, device=self.device)
                with torch.no_grad(), autocast(self.device, self.compute):
                    logits = self.model(inputs.contiguous(memory_format=torch.channels_last))
                position = torch.from_numpy(rows).to(self.device)
                view = torch.zeros_like(position)
                yield Batch([outputs[0]], logits.float().log_softmax(1), self.labels[position], position, view)


def measure(bench: Bench) -> list[Row]:
    """Epochs that recompute over epochs from the cache, ResNet18, with the prototype head and the default one."""
    rows, device = [], bench.device
    for stem, usual, least, share in CASES:
        count = bench.scaled(usual)
        images, labels, index = made_up(count)
        model, layout = prepared("resnet18", stem, count, device)
        dump(bench.folder / stem, model, layout, images, labels, index, device)
        store = open_store(bench.folder / stem, "train")
        with torch.device("meta"):
            flops = measure_taps(build("resnet18", stem, CLASSES), TAPS, images.shape[1], POOL)[1]
        for k, tap in enumerate(layout.taps):
            cached, where = Loader(store, [k], BATCH, seed=0, device=device), f"branch {k + 1}, {stem} stem"
            default, allowed = default_head(tap, flops)
            prototypes = partial(Branch, HEAD, tap, CLASSES, shared_core=False)
            cases: list[tuple[str, str, Callable[[], Classifier], float, float | None]] = [
                (f", {where}, backbone in float32", "float32", prototypes, 1.0, least if k == 0 else None),
                (f", {where}, backbone in bfloat16", "bfloat16", prototypes, 1.0, None),
                (f" over what FLOPs allow, {where}, default head", "float32", partial(Classifier, default, tap, CLASSES), allowed, share),
            ]  # fmt: skip
            for what, compute, branch, bound, limit in cases:
                recomputed = Recomputing(model, images, labels, TAPS[k], compute, device)
                slow, fast = in_turn(
                    partial(epoch, recomputed, branch, device), partial(epoch, cached, branch, device), bench.repeats
                )
                detail = f"{count / np.median(fast):.0f} images/s cached, {count / np.median(slow):.0f} images/s recomputed"
                if bound > 1:
                    detail = f"{np.median(slow / fast):.1f} of {bound:.1f} times; {detail}"
                rows.append(row(f"recomputed / cached epoch{what}", slow / bound, fast, limit, False, detail))
    return rows


def default_head(tap: tuple[int, int, int], flops: int) -> tuple[dict[str, Any], float]:
    """The default head over a tap of a backbone of so many FLOPs, and the largest ratio that its own FLOPs allow.

    It is given under its own name, because finding its width is no part of an epoch.
    """
    head = auto.choice(*tap, auto.OPTIONS["budget"] * flops, CLASSES)
    cost = 3 * Classifier(head, tap, CLASSES).flops()[0] / flops
    return head, (1 + cost) / cost


def epoch(loader: Loader | Recomputing, fresh: Callable[[], Classifier], device: torch.device) -> None:
    """One epoch of a fresh branch, as `train-branch` trains it."""
    torch.manual_seed(0)
    branchwise.train(fresh(), TrainingJob(loader, TARGET, RECIPE, 0, device, "branch"))
