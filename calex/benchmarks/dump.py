"""What does caching cost beside the forward pass that it has to make anyway?"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calex.backbones.build import build, freeze
from calex.backbones.taps import measure_taps, tapping
from calex.backbones.transform import to_input
from calex.benchmarks import Bench, Row, in_turn, row
from calex.features.forward import Forward
from calex.features.layout import Layout
from calex.features.writer import Dump

LIMIT = 1.15
TAPS = ["layer1", "layer2", "layer3"]
# network, stem, pixels, images: as many as take a few seconds on two cores.
CASES = (
    ("resnet18", "imagenet", 32, 8192),
    ("resnet18", "cifar", 32, 1024),
    ("resnet50", "imagenet", 32, 3072),
    ("resnet50", "cifar", 32, 384),
    ("resnet18", "imagenet", 224, 128),
    ("resnet50", "imagenet", 224, 48),
)
BATCH, SIZE, POOL, CLASSES = 256, 32, 8, 10
TRANSFORM: dict[str, Any] = {"size": SIZE, "mean": [0.5] * 3, "std": [0.25] * 3}


def measure(bench: Bench) -> list[Row]:
    """Whole dumps (forward, encoding, checksums, files, manifest) over bare forward passes on the same images."""
    return [case(bench, *each) for each in CASES]


def case(bench: Bench, network: str, stem: str, size: int, count: int) -> Row:
    """Dump and bare forward pass of one network on `count` images of `size` px, timed in turn."""
    count = bench.scaled(count) * (8 if bench.device.type == "cuda" else 1)
    device, folder = bench.device, bench.folder / "dump"
    images, labels, index = made_up(count, size)
    model, layout = prepared(network, stem, count, device, size)
    transform = TRANSFORM | {"size": size}

    @torch.inference_mode()
    def bare() -> None:
        for start in range(0, count, BATCH):
            inputs = to_input(images[start : start + BATCH], **transform, device=device)
            model(inputs.contiguous(memory_format=torch.channels_last))
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    def whole() -> None:
        dump(folder, model, layout, images, labels, index, device)
        shutil.rmtree(folder)

    dumped, passed = in_turn(whole, bare, bench.repeats)
    rate = float(count / np.median(dumped))
    detail = f"{rate:,.4g} images/s dumped, {count / np.median(passed):,.4g} images/s bare"
    facts = {"network": network, "stem": stem, "input_size": size, "pool": POOL, "images_per_second": rate}
    return row(f"dump / bare forward, {network}, {stem} stem, {size} px", dumped, passed, LIMIT, True, detail, facts)


def made_up(count: int, size: int = SIZE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random images, labels and numbers: what a forward pass costs does not depend on what is in them."""
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    return images, np.arange(count) % CLASSES, np.arange(count)


def prepared(network: str, stem: str, count: int, device: torch.device, size: int = SIZE) -> tuple[torch.nn.Module, Layout]:
    """A frozen network on its device, and the layout of a store of its taps."""
    model = build(network, stem, CLASSES)
    taps, _ = measure_taps(model, TAPS, size, POOL)
    model = freeze(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return model, Layout(1, count, tuple(tap.shape for tap in taps), CLASSES)


def dump(
    folder: Path,
    model: torch.nn.Module,
    layout: Layout,
    images: np.ndarray,
    labels: np.ndarray,
    index: np.ndarray,
    device: torch.device,
    compute: str = "float32",
) -> None:
    """A store of these images, as `cache-features` makes it."""
    writer = Dump(folder, "train", layout, labels, index, {"taps": TAPS})
    with writer, tapping(model, TAPS, POOL, getattr(torch, layout.precision)) as outputs:
        transform = TRANSFORM | {"size": images.shape[1]}
        forward = Forward(
            model, outputs, layout.taps, CLASSES, layout.precision, transform, {}, BATCH, compute, device
        )  # fmt: skip
        for view, chunk, start, stop in writer.pending():
            writer.write(view, chunk, *forward(images[start:stop], index[start:stop], view))
        writer.finish()
