"""Train one branch over cached features: branch{k}.safetensors, and what it says about every image: exits{k}.npz.

Images can be weighted (weights{k}.npy). The exits file needs no torch to be read; calibration and evaluation
start from it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from calex import branches, devices, images, plugins, settings
from calex.errors import CalexError
from calex.features.loader import Loader
from calex.features.store import open_store
from calex.files import canonical_json, read_npy, replacing, write_npz
from calex.scores import scores


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--features", type=Path, required=True, help="the folder of feature stores (train, val and test)")
    parser.add_argument("--branch", type=int, required=True, help="which branch, 1 is the shallowest")
    parser.add_argument(
        "--weights", type=Path, help="a weight for each training image and view (.npy); without it all count the same"
    )
    parser.add_argument("--seed", type=int, required=True, help="of the initial weights and the order of images")
    parser.add_argument(
        "--settings", type=settings.parse, required=True,
        help='JSON: {"recipe": {…}, "head": {…}, "target": {…}, "shared_core": false, "correct": "label", "memory_mb": 2048}; '
        "features up to memory_mb are kept in memory, larger ones streamed",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="the folder to write into")
    devices.add_arguments(parser, threads=1)


def run(args: argparse.Namespace) -> None:
    chosen = settings.completed(args.settings, recipe="recipes", head="heads", target="targets")
    k = args.branch
    device = devices.claim(args.device, args.threads)
    stores = {split: open_store(args.features, split) for split in images.SPLITS}
    train = stores["train"]
    for split, store in stores.items():
        for same in ("dataset_fingerprint", "backbone_fingerprint", "taps", "pool"):
            if store.provenance.get(same) != train.provenance.get(same):
                what = same.removesuffix("_fingerprint")
                raise CalexError(
                    f"{args.features}: {split} and train are of another {what}; rerun cache-features for all splits"
                )
    if not 1 <= k <= len(train.layout.taps):
        raise CalexError(f"--branch: {k} is not a branch; the stores hold taps 1..{len(train.layout.taps)}")
    budget = chosen["memory_mb"] << 20
    weights = np.ones((train.layout.views, train.layout.images)) if args.weights is None else read_npy(args.weights)
    if weights.shape != (train.layout.views, train.layout.images):
        raise CalexError(
            f"{args.weights}: weights of shape {weights.shape} for {train.layout.views} views of {train.layout.images} images"
        )

    recipe = plugins.load("recipes", chosen["recipe"]["name"])
    torch.manual_seed(1000 * args.seed + k)
    branch = branches.Branch(chosen["head"], train.layout.taps[k - 1], train.layout.classes, chosen["shared_core"])
    loader = Loader(
        train, [k - 1], chosen["recipe"]["batch_size"], seed=1000 * args.seed + k, device=device, memory_budget=budget
    )
    recipe.train(
        branch, loader, weights, chosen["target"], plugins.options_of(chosen["recipe"]), chosen["correct"], device,
        f"train-branch {k} seed {args.seed}",
    )  # fmt: skip

    said: dict[str, np.ndarray] = {}
    for split, store in stores.items():
        reader = Loader(store, [k - 1], 1024, seed=0, device=device, memory_budget=budget)
        found = [
            branches.answers(branch, (batch.taps[0].float() for batch in reader.ordered(v))) for v in range(store.layout.views)
        ]
        said[f"{split}_prediction"] = np.stack([log_probabilities.argmax(1) for log_probabilities, _ in found]).astype(np.int64)
        by_view = [scores(*each) for each in found]
        for name in by_view[0]:
            said[f"{split}_score_{name}"] = np.stack([each[name] for each in by_view])
        said[f"{split}_label"] = store.labels
        said[f"{split}_backbone"] = store.log_softmax.argmax(2).astype(np.int64)
    head, with_confidence = branch.cpu().flops()
    said |= {
        "classes": np.array(train.layout.classes),
        "flops_to_tap": np.array(train.provenance["flops_to_tap"][k - 1]),
        "flops_head": np.array(head),
        "flops_confidence_head": np.array(with_confidence),
        "flops_backbone": np.array(train.provenance["flops"]),
    }
    # Beside the weights and not in exits: another machine is no reason for later steps to see another file. One key,
    # because safetensors keeps no order of several.
    made = {"device": devices.describe(device), "threads": args.threads, "torch": torch.__version__}
    with replacing(args.out / f"branch{k}.safetensors") as partial:
        tensors = {name: tensor.contiguous() for name, tensor in branch.state_dict().items()}
        save_file(tensors, partial, metadata={"made": canonical_json(made)})
    write_npz(args.out / f"exits{k}.npz", said)
