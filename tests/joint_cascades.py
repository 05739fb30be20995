"""Small real feature stores with something to learn, and cascades over them, for the tests of joint recipes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from feature_stores import PROVENANCE

from calex import plugins
from calex.branches.branch import Branches
from calex.branches.fitting import TrainingJob
from calex.features.layout import Layout
from calex.features.loader import Loader
from calex.features.store import Store, open_store
from calex.features.writer import Dump
from calex.simulation.cost import Costs

torch.set_num_threads(1)
CPU = torch.device("cpu")
SHAPES = ((4, 3, 3), (6, 2, 2), (5, 1, 1))
CLASSES, IMAGES = 3, 37
FLOPS = {"flops_to_tap": [4_000.0, 9_000.0, 15_000.0], "flops": 20_000.0}


def write_store(folder: Path, split: str = "train", views: int = 1, images: int = IMAGES, seed: int = 0) -> Store:
    """Random features in which each class stands out a little, and a backbone that is usually right."""
    draw = np.random.default_rng(seed)
    layout = Layout(views=views, images=images, taps=SHAPES, classes=CLASSES, rows=8)
    labels = draw.integers(0, CLASSES, images)
    taps = []
    for shape in SHAPES:
        tap = draw.normal(size=(views, images, *shape)).astype(np.float16)
        tap[:, np.arange(images), labels] += 1
        taps.append(tap)
    logits = draw.normal(size=(views, images, CLASSES)) + 2 * np.eye(CLASSES)[labels]
    log_softmax = (logits - np.log(np.exp(logits).sum(2, keepdims=True))).astype(np.float32)
    with Dump(folder, split, layout, labels, draw.permutation(images), PROVENANCE | FLOPS) as writer:
        for view, chunk, start, stop in writer.pending():
            writer.write(view, chunk, [tap[view, start:stop] for tap in taps], log_softmax[view, start:stop])
        writer.finish()
    return open_store(folder, split)


def recipe_options(name: str, **options: Any) -> dict[str, Any]:
    return plugins.options_of(plugins.complete("recipes", {"name": name, **options}, "recipe"))


def build(name: str, head: str | None = None, shared: bool = True, seed: int = 0, **options: Any) -> Branches:
    block = plugins.complete("heads", {"name": head or name}, "head")
    return plugins.load("recipes", name).build(block, SHAPES, CLASSES, shared, recipe_options(name, **options), seed)


def costs_of(cascade: Branches) -> Costs:
    head = tuple(float(both or alone) for alone, both in (branch.flops() for branch in cascade.branches))
    return Costs(tuple(FLOPS["flops_to_tap"]), head, FLOPS["flops"])


def train(name: str, cascade: Branches, store: Store, target: str = "labels", **options: Any) -> list[float]:
    """In one batch an epoch, unless `batch_size` says otherwise."""
    options = recipe_options(name, **{"batch_size": 64, **options})
    loader = Loader(store, range(len(SHAPES)), options["batch_size"], seed=0)
    block = plugins.complete("targets", {"name": target}, "target")
    job = TrainingJob(loader, block, options, 0, CPU, "train-branches", costs=costs_of(cascade))
    return plugins.load("recipes", name).train(cascade, job)


def everything(store: Store) -> Any:
    """All images of the first view as one batch, taps in float32."""
    batch = next(Loader(store, range(len(SHAPES)), store.layout.images, seed=0).ordered())
    batch.taps = [tap.float() for tap in batch.taps]
    return batch


def state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(module.state_dict())


def learners(cascade: Branches) -> set[int]:
    """Which branches (from 1) have a gradient that is not zero."""
    return {
        k
        for k, branch in enumerate(cascade.branches, 1)
        if any(parameter.grad is not None and parameter.grad.any() for parameter in branch.parameters())
    }
