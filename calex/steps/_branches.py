"""What the two commands that train branches share: the stores that they read and the files that they write."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from calex import images, recipes
from calex.branches.branch import Branches, predict_log_proba
from calex.errors import CalexError
from calex.features.loader import Loader
from calex.features.store import Store, open_store
from calex.simulation import exits_file
from calex.simulation.exits_file import BranchPredictions, Kept
from calex.system import devices
from calex.system.files import canonical_json, write_npz
from calex.system.replacing import replacing
from calex.workflow import settings_argument

LOWER = "features.memory_mb or recipe.batch_size"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser, keys: str = "", meaning: str = "") -> None:
    """Define the options that both commands have. keys, meaning: what `--settings` holds more, and what is to be said of it."""
    parser.add_argument("--features", type=Path, required=True, help="the folder of feature stores (train, val and test)")
    parser.add_argument("--seed", type=int, required=True, help="of the initial weights and the order of images")
    parser.add_argument(
        "--settings", type=settings_argument.parse, required=True,
        help='JSON: {"recipe": {…}, "head": {…}, "target": {…}, "shared_core": false, ' + keys + '"memory_mb": 2048, '
        '"train_log_softmax": false}; ' + meaning + 'features up to memory_mb are kept in memory, larger ones streamed',
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    devices.add_arguments(parser, threads=1)


def opened(features: Path) -> dict[str, Store]:
    """The store of every split; all must hold the same taps of one backbone over one dataset."""
    stores = {split: open_store(features, split) for split in images.SPLITS}
    for split, store in stores.items():
        for same in ("dataset_fingerprint", "backbone_fingerprint", "taps", "pool"):
            if store.provenance.get(same) != stores["train"].provenance.get(same):
                what = same.removesuffix("_fingerprint")
                raise CalexError(f"{features}: {split} and train are of another {what}; rerun cache-features for all splits")
    return stores


def check(settings: dict[str, Any], joint: bool) -> None:
    """An error, if the recipe is for the other command or cannot learn the target."""
    name = settings["recipe"]["name"]
    if recipes.joint(name) != joint:
        command, ways = ("train-branch", "one by one") if joint else ("train-branches", "all at once")
        raise CalexError(f"--settings: the recipe '{name}' trains branches {ways}; use {command}")
    recipes.check_target(name, settings["target"]["name"], "--settings: target")
    recipes.check_warmup(name, settings["recipe"], "--settings: recipe")


def write(
    cascade: Branches,
    numbers: Sequence[int],
    stores: dict[str, Store],
    folder: Path,
    device: torch.device,
    threads: int,
    memory_budget: int,
    train_log_softmax: bool,
) -> None:
    """Write branch{k}.safetensors and exits{k}.npz of each exit of a trained cascade.

    numbers: the branches' own, from 0; in file names k counts from 1. train_log_softmax: keep it of training images too.
    """
    whole = [split for split in stores if split != "train" or train_log_softmax]
    # Of each split and view what is kept of each exit, and last of the backbone.
    found: dict[str, list[list[Kept]]] = {}
    for split, store in stores.items():
        reader = Loader(store, numbers, 1024, seed=0, device=device, memory_budget=memory_budget)
        found[split] = [_predicted(cascade, reader, view, split in whole, 0 in numbers) for view in range(store.layout.views)]
    labels = {split: store.labels for split, store in stores.items()}
    backbone = {split: np.stack([view[-1].prediction for view in views]) for split, views in found.items()}
    halves = {
        split: np.stack(of_views)
        for split in whole
        if (of_views := [half for view in found[split] if (half := view[-1].log_softmax) is not None])
    }
    train = stores["train"]
    # Beside the weights and not in exits: another machine is no reason for later steps to see another file. One key,
    # because safetensors keeps no order of several.
    made = canonical_json(
        {"device": devices.describe(device), "device_type": device.type, "threads": threads, "torch": torch.__version__}
    )
    for place, (number, branch) in enumerate(zip(numbers, cascade.cpu().branches, strict=True)):
        head, confidence_head = branch.flops()  # type: ignore[operator]
        arrays = exits_file.content(
            {split: [view[place] for view in views] for split, views in found.items()}, labels, backbone,
            train.provenance["flops_to_tap"][number], head, confidence_head, train.provenance["flops"],
            halves if number == 0 else {},
        )  # fmt: skip
        with replacing(folder / f"branch{number + 1}.safetensors") as partial:
            tensors = {name: tensor.contiguous() for name, tensor in branch.state_dict().items()}
            partial.write_bytes(save(tensors, {"made": made}))  # `save_file` would let nobody else read it
        write_npz(folder / f"exits{number + 1}.npz", arrays)


def _predicted(cascade: Branches, reader: Loader, view: int, whole: bool, first: bool) -> list[Kept]:
    """What is kept of each exit's predictions for a view, and last of the backbone's.

    whole: the log-softmax of all classes too, the backbone's only with the first branch, in whose file it is.
    """
    batches = [
        [
            *(exits_file.kept(exit, whole) for exit in predict_log_proba(cascade, batch.taps)),
            exits_file.kept(BranchPredictions(batch.log_softmax.cpu().numpy(), None), whole and first),
        ]
        for batch in reader.ordered(view)
    ]
    return [exits_file.joined(exit) for exit in zip(*batches, strict=True)]
