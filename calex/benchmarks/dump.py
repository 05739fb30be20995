"""What does caching cost beside the forward pass that it has to make anyway?"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import torch

from calex import backbones
from calex.benchmarks import Row, in_turn, row
from calex.features.forward import Forward
from calex.features.layout import Layout
from calex.features.writer import Dump
from calex.transform import to_input

LIMIT = 1.15
TAPS = ["layer1", "layer2", "layer3"]
# network, stem, images: as many as take a few seconds on two cores.
CASES = (
    ("resnet18", "imagenet", 8192),
    ("resnet18", "cifar", 1024),
    ("resnet50", "imagenet", 3072),
    ("resnet50", "cifar", 384),
)
BATCH, SIZE, POOL, CLASSES = 256, 32, 8, 10
TRANSFORM = {"size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3}


def measure(folder: Path, repeats: int, threads: int, device: torch.device) -> list[Row]:
    """Whole dumps (forward, encoding, checksums, files, manifest) over bare forward passes on the same images."""
    return [case(folder / f"{network}_{stem}", network, stem, count, repeats, device) for network, stem, count in CASES]


def case(folder: Path, network: str, stem: str, count: int, repeats: int, device: torch.device) -> Row:
    count *= 8 if device.type == "cuda" else 1
    images, labels, index = made_up(count)
    model, layout = prepared(network, stem, count, device)

    @torch.inference_mode()
    def bare() -> None:
        for start in range(0, count, BATCH):
            inputs = to_input(images[start : start + BATCH], **TRANSFORM, device=device)  # type: ignore[arg-type]
            model(inputs.contiguous(memory_format=torch.channels_last))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def whole() -> None:
        dump(folder, model, layout, images, labels, index, device)
        shutil.rmtree(folder)

    dumped, passed = in_turn(whole, bare, repeats)
    detail = f"{count / np.median(dumped):.0f} images/s dumped, {count / np.median(passed):.0f} images/s bare"
    return row(f"dump / bare forward, {network}, {stem} stem", dumped, passed, LIMIT, True, detail)


def made_up(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random images, labels and numbers: what a forward pass costs does not depend on what is in them."""
    images = np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    return images, np.arange(count) % CLASSES, np.arange(count)


def prepared(network: str, stem: str, count: int, device: torch.device) -> tuple[torch.nn.Module, Layout]:
    """A frozen network on its device, and the layout of a store of its taps."""
    model = backbones.build(network, stem, CLASSES)
    taps, _ = backbones.measure(model, TAPS, SIZE, POOL)
    model = backbones.freeze(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, Layout(1, count, tuple(tap.shape for tap in taps), CLASSES)


def dump(
    folder: Path,
    model: torch.nn.Module,
    layout: Layout,
    images: np.ndarray,
    labels: np.ndarray,
    index: np.ndarray,
    device: torch.device,
) -> None:
    """A store of these images, as `cache-features` makes it."""
    writer = Dump(folder, "train", layout, labels, index, {"taps": TAPS})
    with writer, backbones.tapping(model, TAPS, POOL) as caught:
        forward = Forward(
            model, caught, layout.taps, CLASSES, layout.precision, TRANSFORM, {}, BATCH, "float32", device
        )  # fmt: skip
        for view, chunk, start, stop in writer.pending():
            writer.write(view, chunk, *forward(images[start:stop], index[start:stop], view))
        writer.finish()
