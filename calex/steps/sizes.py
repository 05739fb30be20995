"""Predict the feature stores of larger datasets: bytes by the layout of a store, time from `benchmark dump`.

Nothing is downloaded or computed but shapes. The result is a table in Markdown.
"""

from __future__ import annotations

import argparse
from functools import cache
from pathlib import Path
from typing import Any

import torch

from calex.backbones.build import build
from calex.backbones.taps import measure_taps
from calex.benchmarks.dump import TAPS
from calex.errors import CalexError
from calex.features.layout import Layout, amount
from calex.system.files import read_json
from calex.system.replacing import replacing

# Dataset, its number of classes, pixels, the stem for that size, images by split.
DATASETS: tuple[tuple[str, int, int, str, tuple[int, ...]], ...] = (
    ("CIFAR-100", 100, 32, "cifar", (50_000, 10_000)),
    ("CINIC-10", 10, 32, "cifar", (90_000, 90_000, 90_000)),
    ("ImageNet", 1000, 224, "imagenet", (1_281_167, 50_000)),
)
NETWORKS = ("resnet18", "resnet50")
POOLS = (8, None)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--benchmark", type=Path, required=True, help="what `benchmark dump` measured (.json)")
    parser.add_argument("--out", type=Path, required=True, help="the table to write (.md)")


def run(args: argparse.Namespace) -> None:
    result = read_json(args.benchmark)
    try:
        rates = {key(row["facts"]): row["facts"]["images_per_second"] for row in result["rows"]}
        text = table(rates, result["device"])
    except (KeyError, TypeError):
        raise CalexError(
            f"{args.benchmark}: holds no rates as `python -m calex benchmark dump` writes them; measure it again"
        ) from None
    with replacing(args.out) as partial:
        partial.write_text(text, encoding="utf-8")


def key(facts: dict[str, Any]) -> tuple[str, str, int]:
    """Network, stem, pixels."""
    return facts["network"], facts["stem"], facts["input_size"]


def table(rates: dict[tuple[str, str, int], float], device: str) -> str:
    """Write a row for each dataset, network and pool; rates: images per second by network, stem and pixels."""
    lines = [
        "| dataset | images | network, stem | taps | an image | store | time to cache |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, classes, pixels, stem, splits in DATASETS:
        for network in NETWORKS:
            rate = rates[network, stem, pixels]
            for pool in POOLS:
                size = sum(Layout(1, images, shapes(network, stem, pixels, pool), classes).bytes for images in splits)
                taps = "whole" if pool is None else f"at most {pool}×{pool}"
                lines.append(
                    f"| {name}, {pixels} px | {sum(splits):,} | {network}, {stem} | {taps} | {size / sum(splits) / 1e3:,.0f} kB "
                    f"| {amount(size)} | {duration(sum(splits) / rate)} |"
                )
    measured = ", ".join(
        f"{network} {rates[network, stem, pixels]:.3g} at {pixels} px"
        for stem, pixels in {(stem, pixels): None for _, _, pixels, stem, _ in DATASETS}
        for network in NETWORKS
    )
    lines += [
        "",
        f"Taps layer1 to layer3 in float16, codec none, one view of each image. Time on {device} in float32, from the images "
        f"a second that were dumped there with pooled taps ({measured}); whole taps take longer where the disk is slower than "
        "that.",
    ]
    return "\n".join(lines) + "\n"


@cache
def shapes(network: str, stem: str, pixels: int, pool: int | None) -> tuple[tuple[int, int, int], ...]:
    """(C, H, W) of each tap; nothing but shapes is made."""
    with torch.device("meta"):
        model = build(network, stem, 2)
    return tuple(tap.shape for tap in measure_taps(model, TAPS, pixels, pool)[0])


def duration(seconds: float) -> str:
    """Write `40 s`, `12 min`, `5.2 h`, `3.1 days`."""
    for unit, size in (("days", 86_400 * 2), ("h", 3600 * 2), ("min", 60 * 2)):
        if seconds >= size:
            count = seconds / (size / 2)
            return f"{count:.0f} {unit}" if count >= 10 else f"{count:.1f} {unit}"
    return f"{seconds:.0f} s"
