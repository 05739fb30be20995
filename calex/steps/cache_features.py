"""Run the frozen backbone once over a split and store what branches read: {split}.zarr and its manifest {split}.json.

The store holds the pooled taps, the backbone's full log-softmax, labels and image numbers, in a fixed shuffled
order. A dump that was stopped goes on from its last whole chunk.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr

from calex import __version__, backbones, devices, images
from calex.errors import CalexError
from calex.features.layout import Layout
from calex.features.writer import Dump
from calex.files import read_json
from calex.progress import say, track
from calex.transform import augment, to_input
from calex.vision import torchvision


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
        type=json.loads,
        required=True,
        help='JSON: {"views", "precision", "codec", "batch_size", "order_seed"}; config/README.md explains each key',
    )
    devices.add_arguments(parser)


@torch.inference_mode()
def chunk_features(
    model: torch.nn.Module,
    caught: list[torch.Tensor],
    pixels: np.ndarray,
    ids: np.ndarray,
    view: int,
    transform: dict[str, Any],
    shifts: dict[str, Any],
    batch_size: int,
    device: torch.device,
) -> tuple[list[np.ndarray], np.ndarray]:
    """Pooled taps (n, C, H, W) and log-softmax (n, K), float32, of n images in one view; view 0 is the image itself."""
    taps: list[list[np.ndarray]] = [[] for _ in caught]
    log_softmax = []
    for start in range(0, len(pixels), batch_size):
        part = slice(start, start + batch_size)
        inputs = to_input(pixels[part], **transform, device=device)
        if view > 0:
            inputs = augment(inputs, ids[part], key=view, **shifts)
        logits = model(inputs.contiguous(memory_format=torch.channels_last))
        log_softmax.append(logits.float().log_softmax(1).cpu().numpy())
        for collected, tap in zip(taps, caught, strict=True):
            collected.append(tap.float().contiguous().cpu().numpy())
    return [np.concatenate(collected) for collected in taps], np.concatenate(log_softmax)


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    device = devices.claim(args.device, args.threads)
    dataset = images.load(args.dataset)
    about, measured = read_json(args.backbone.with_suffix(".json")), read_json(args.taps)
    if about["dataset"] != dataset.fingerprint:
        raise CalexError(f"{args.backbone}: trained on another version of {args.dataset}; rerun train-backbone")
    model = backbones.build(about["network"], about["stem"], about["classes"])
    backbones.load_weights(model, backbones.read_weights(args.backbone), args.backbone)
    backbones.freeze(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    members = dataset.indices(args.split)
    index = members[np.random.default_rng(chosen["order_seed"]).permutation(len(members))]
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
    provenance = {
        "dataset_fingerprint": dataset.fingerprint,
        "backbone_fingerprint": about["fingerprint"],
        "network": about["network"],
        "stem": about["stem"],
        "taps": names,
        "pool": measured["pool"],
        "flops_to_tap": [tap["flops"] for tap in measured["taps"]],
        "flops": measured["flops"],
        "label_names": dataset.names.tolist(),
        "transform": about["transform"],
        "augment": about["augment"] if views > 1 else None,
        "order_seed": chosen["order_seed"],
        "batch_size": chosen["batch_size"],
        "device": devices.describe(device),
        "versions": {"calex": __version__, "torch": torch.__version__, "torchvision": torchvision.__version__, "zarr": zarr.__version__},
    }  # fmt: skip
    label = f"cache-features {args.split}"
    say(
        f"{label}: {len(index)} images, {views} view{'s' * (views > 1)}, {layout.bytes / 1e6:.1f} MB on {devices.describe(device)}"
    )
    with Dump(args.out, args.split, layout, dataset.labels[index], index, provenance) as dump, backbones.tapping(
        model, names, measured["pool"]
    ) as caught:  # fmt: skip
        pending = list(dump.pending())
        progress = track(iter(pending), label, len(pending), "images", layout.rows)
        for view, chunk, start, stop in progress:
            rows = index[start:stop]
            taps, log_softmax = chunk_features(
                model,
                caught,
                dataset.images[rows],
                rows,
                view,
                about["transform"],
                about["augment"],
                chosen["batch_size"],
                device,
            )
            dump.write(view, chunk, taps, log_softmax)
        dump.finish()
