"""Decode a dataset, fix its split and audit it: images.npz and images.json.

The first holds the uint8 images, labels, class names, the split into train/val/test and a fingerprint that every later
file carries; the second what the images say about themselves, with a line for each thing that is probably wrong. The
source is a plugin (a file in calex/datasets).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from calex import images, plugins
from calex.images.audit import audit
from calex.system.files import write_json
from calex.system.progress import say, warn
from calex.workflow import settings_argument

LOWER = "the source's `size`, or take fewer images"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source", type=settings_argument.parse, required=True, help='the source and its options, JSON: {"name": "digits"}'
    )
    parser.add_argument("--resources", type=Path, required=True, help="folder for downloads, as they came")
    parser.add_argument(
        "--out", type=Path, required=True, help="the dataset file to write (.npz); its audit goes beside it (.json)"
    )


def run(args: argparse.Namespace) -> None:
    block = plugins.complete("datasets", args.source, "source")
    source = plugins.load("datasets", block["name"])
    dataset = images.checked(source.load(args.resources, **plugins.options_of(block)), block["name"])
    record = audit(dataset)
    for warning in record["warnings"]:
        warn(warning)
    images.save(args.out, dataset)
    write_json(args.out.with_suffix(".json"), record)
    sizes = ", ".join(f"{name} {count}" for name, count in zip(images.SPLITS, np.bincount(dataset.split), strict=True))
    say(f"{block['name']}: {len(dataset.images)} images of {dataset.images.shape[1:]}, {len(dataset.names)} classes; {sizes}")
