"""How much faster is an epoch of branch training from the cache than one that runs the frozen backbone again?"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from calex.backbones.taps import tapping
from calex.backbones.transform import to_input
from calex.benchmarks import Bench, Row, in_turn, row
from calex.benchmarks.dump import BATCH, CLASSES, POOL, TAPS, TRANSFORM, dump, made_up, prepared
from calex.branches.branch import Branch
from calex.branches.fitting import TrainingJob
from calex.features.layout import Layout
from calex.features.loader import Batch, Loader
from calex.features.store import open_store
from calex.heads import prototype
from calex.recipes import branchwise
from calex.system.precision import autocast
from calex.targets import kl

# stem, images, least speed-up of branch 1 in float32.
CASES = (("imagenet", 8192, 10.0), ("cifar", 1024, 40.0))
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
    """Epochs that recompute over epochs from the cache, ResNet18, the prototype head."""
    rows, device = [], bench.device
    for stem, usual, least in CASES:
        count = bench.scaled(usual)
        images, labels, index = made_up(count)
        model, layout = prepared("resnet18", stem, count, device)
        dump(bench.folder / stem, model, layout, images, labels, index, device)
        store = open_store(bench.folder / stem, "train")
        for k in range(len(TAPS)):
            cached = Loader(store, [k], BATCH, seed=0, device=device)
            for compute in ("float32", "bfloat16"):
                recomputed = Recomputing(model, images, labels, TAPS[k], compute, device)
                slow, fast = in_turn(
                    partial(epoch, recomputed, layout, k, device), partial(epoch, cached, layout, k, device), bench.repeats
                )
                limit = least if k == 0 and compute == "float32" else None
                detail = f"{count / np.median(fast):.0f} images/s cached, {count / np.median(slow):.0f} images/s recomputed"
                name = f"recomputed / cached epoch, branch {k + 1}, {stem} stem, backbone in {compute}"
                rows.append(row(name, slow, fast, limit, False, detail))
    return rows


def epoch(loader: Loader | Recomputing, layout: Layout, k: int, device: torch.device) -> None:
    """One epoch of a fresh branch k, as `train-branch` trains it."""
    torch.manual_seed(0)
    branch = Branch(HEAD, layout.taps[k], CLASSES, shared_core=False)
    branchwise.train(branch, TrainingJob(loader, TARGET, RECIPE, 0, device, f"branch {k + 1}"))
