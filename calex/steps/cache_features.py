"""Run the frozen backbone once over a split and store what branches read: {split}.zarr and its manifest {split}.json.

The store holds the pooled taps, the backbone's full log-softmax, labels and image numbers, in a fixed shuffled
order. A dump that was stopped continues from its last complete chunk.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from calex import __version__, images
from calex.backbones import build, maps, own, taps, transform
from calex.backbones.records import layouts, read_backbone_record, read_taps_record
from calex.backbones.vision import torchvision
from calex.backbones.weights import read_weights
from calex.errors import CalexError
from calex.features import forward as forwarding
from calex.features.forward import AGREEMENT_IMAGES, Forward
from calex.features.layout import Layout
from calex.features.writer import Dump
from calex.images import splitting
from calex.system import devices, precision
from calex.system.files import sha256
from calex.system.progress import say, track
from calex.workflow import settings_argument

LOWER = "features.batch_size"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="the dataset file (images.npz)")
    parser.add_argument(
        "--backbone", type=Path, required=True, help="the frozen weights (backbone.safetensors, its .json beside it)"
    )
    parser.add_argument("--taps", type=Path, required=True, help="the measured taps (taps.json)")
    parser.add_argument("--split", choices=images.SPLITS, required=True)
    parser.add_argument("--out", type=Path, required=True, help="the folder of stores to write into")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"views", "precision", "codec", "compute", "batch_size", "order_seed"}; config/README.md explains each key',
    )
    devices.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    device = devices.claim(args.device, args.threads)
    dataset = images.load(args.dataset)
    about, measured = read_backbone_record(args.backbone), read_taps_record(args.taps)
    if about["dataset"] != dataset.fingerprint:
        raise CalexError(f"{args.backbone}: trained on another version of {args.dataset}; rerun train-backbone")
    if about["fingerprint"] != sha256(args.backbone.read_bytes()):
        raise CalexError(
            f"{args.backbone}: not the weights that {args.backbone.with_suffix('.json')} describes; rerun train-backbone"
        )
    trained = (about["network"], about["stem"], about["transform"]["size"])
    if trained != (measured["network"], measured["stem"], measured["input_size"]):
        raise CalexError(f"{args.taps}: measured on another network, stem or input size than {args.backbone}; rerun both")
    if own.is_own(about["network"]) and about.get("network_sources") != own.source_hashes(about["network"]):
        raise CalexError(f"{args.backbone}: the source of {about['network']} is not what it was then; rerun train-backbone")
    model = build.build(about["network"], about["stem"], about["classes"], about["transform"]["size"])
    read_weights(model, args.backbone)
    build.freeze(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    index = dataset.indices(args.split)
    if args.split == "train":
        index = index[splitting.split_head_holdout(dataset.labels[index], about["head_holdout"])[1]]
    index = index[np.random.default_rng(chosen["order_seed"]).permutation(len(index))]
    views = chosen["views"] if args.split == "train" else 1
    names = [tap["name"] for tap in measured["taps"]]
    layout = Layout(
        views=views,
        images=len(index),
        taps=tuple(tuple(tap["shape"]) for tap in measured["taps"]),
        classes=about["classes"],
        precision=chosen["precision"],
        codec=chosen["codec"],
    )
    read_as = layouts(measured)
    with taps.tapping(model, names, measured["pool"], getattr(torch, layout.precision), read_as) as outputs:
        forward = Forward(
            model, outputs, layout.taps, layout.classes, layout.precision, about["transform"], about["augment"],
            chosen["batch_size"], "float32", device, chosen["order_seed"],
        )  # fmt: skip
        dump(args, dataset, index, layout, forward, about, measured)


def dump(
    args: argparse.Namespace,
    dataset: images.Images,
    index: np.ndarray,
    layout: Layout,
    forward: Forward,
    about: dict[str, Any],
    measured: dict[str, Any],
) -> None:
    """Write the store of the images `index`, (N,) int64 in stored order, and its manifest."""
    chosen, device, label = args.settings, forward.device, f"cache-features {args.split}"
    names, first = [tap["name"] for tap in measured["taps"]], index[: chosen["batch_size"]]
    versions = {
        "calex": __version__,
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "zarr": zarr.__version__,
    }
    compute = precision.choose(
        chosen["compute"], device, lambda compute: forward.computing(compute)(dataset.images[first], first, 0),
        f"a batch of {len(first)} images", args.out / "precision.json",
        {
            "backbone": about["fingerprint"], "taps": names, "pool": measured["pool"], "batch_size": chosen["batch_size"],
            "device_type": device.type, "threads": args.threads, "versions": versions,
        },
        label,
    )  # fmt: skip
    forward = forward.computing(compute)
    provenance = {
        "dataset_fingerprint": dataset.fingerprint,
        "backbone_fingerprint": about["fingerprint"],
        "network": about["network"],
        "network_sources": about.get("network_sources", {}),
        "stem": about["stem"],
        "taps": names,
        "pool": measured["pool"],
        "layouts": [asdict(one) for one in layouts(measured)],
        "flops_to_tap": [tap["flops"] for tap in measured["taps"]],
        "flops": measured["flops"],
        "label_names": dataset.names.tolist(),
        "transform": about["transform"],
        "augment": about["augment"] if layout.views > 1 else None,
        "head_holdout": about["head_holdout"],
        "order_seed": chosen["order_seed"],
        "batch_size": chosen["batch_size"],
        "compute": compute,
        "device": devices.describe(device),
        "device_type": device.type,
        "threads": args.threads,
        "versions": versions,
    }
    views = f"{layout.views} view{'s' * (layout.views > 1)} in {compute}"
    say(f"{label}: {len(index)} images, {views}, {layout.bytes / 1e6:.1f} MB, on {devices.describe(device)}")
    code = [sha256(Path(str(module.__file__)).read_bytes()) for module in (build, maps, taps, forwarding, transform)]
    with Dump(args.out, args.split, layout, dataset.labels[index], index, provenance, code=code) as writer:
        agreement = forward.agreement(dataset.images[index[:AGREEMENT_IMAGES]])
        if agreement is not None:
            say(f"{label}: {compute} gives float32's answer for {agreement['argmax']:.2%} of {agreement['images']} images")
        pending = list(writer.pending())
        for view, chunk, start, stop in track(iter(pending), label, len(pending), "images", layout.rows):
            part = index[start:stop]
            writer.write(view, chunk, *forward(dataset.images[part], part, view))
        writer.finish({"agreement": agreement})
