"""Train one branch over cached features: branch{k}.safetensors, and its predictions for every image: exits{k}.npz.

Images can be weighted (weights{k}.npy). The exits file needs no torch to be read; calibration and evaluation
start from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from calex import plugins
from calex.branches.branch import Branch, Branches, Classifier, head_for, seed_branch
from calex.branches.fitting import TrainingJob, depth_of
from calex.errors import CalexError
from calex.features.loader import Loader
from calex.steps import _branches
from calex.system import devices
from calex.system.files import read_npy, remedy
from calex.workflow import settings_argument

LOWER = _branches.LOWER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--branch", type=int, required=True, help="which branch, 1 is the shallowest")
    parser.add_argument(
        "--weights", type=Path, help="a weight for each training image and view (.npy); without it all count the same"
    )
    _branches.add_arguments(
        parser,
        '"confidence": true, "correct": "label", ',
        'without "confidence" the branch has no such output; ',
    )


def run(args: argparse.Namespace) -> None:
    chosen = settings_argument.completed(args.settings, recipe="recipes", head="heads", target="targets")
    _branches.check(chosen, joint=False)
    device = devices.claim(args.device, args.threads)
    stores = _branches.opened(args.features)
    train = stores["train"]
    if not 1 <= args.branch <= len(train.layout.taps):
        raise CalexError(f"--branch: {args.branch} is not a branch; the stores hold taps 1..{len(train.layout.taps)}")
    number = args.branch - 1  # branches count from 1 in flags and file names, from 0 here
    shape, budget = (train.layout.views, train.layout.images), chosen["memory_mb"] << 20
    weights = None if args.weights is None else read_weights(args.weights, shape)

    recipe, options = plugins.load("recipes", chosen["recipe"]["name"]), plugins.options_of(chosen["recipe"])
    seed_branch(args.seed, number)
    head = head_for(chosen["head"], train.provenance["flops"], train.layout.classes)
    tap, classes = train.layout.taps[number], train.layout.classes
    branch = Branch(head, tap, classes, chosen["shared_core"]) if chosen["confidence"] else Classifier(head, tap, classes)
    loader = Loader(
        train, [number], options["batch_size"], seed=1000 * args.seed + args.branch, device=device, memory_budget=budget
    )
    job = TrainingJob(
        loader, chosen["target"], options, args.seed, device, f"train-branch {args.branch} seed {args.seed}",
        weights=weights, correct=chosen["correct"], depth=depth_of(number, len(train.layout.taps)),
    )  # fmt: skip
    recipe.train(branch, job)
    _branches.write(Branches([branch]), [number], stores, args.out, device, args.threads, budget, chosen["train_log_softmax"])


def read_weights(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """(V, N) float64: how much each view of each training image counts. Raises CalexError for what cannot be weights."""
    weights = read_npy(path)
    if weights.shape != shape:
        fault = f"weights of shape {weights.shape} for {shape[0]} views of {shape[1]} images"
    elif weights.dtype.kind != "f":
        fault = f"weights are {weights.dtype}, not floats"
    elif not np.isfinite(weights).all() or weights.min() < 0:
        fault = "a weight is not a finite number ≥ 0"
    elif not weights.any():
        fault = "all weights are 0"
    else:
        return weights
    raise CalexError(f"{path}: {fault}; {remedy(path)}")
