"""Audit decoded images: sizes of classes, identical images, brightness, and what is probably wrong.

All of it is measured on the pixels that a network will see, whatever source they came from.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from calex.errors import listed
from calex.images import SPLITS, Images

FEW = {"train": 10, "val": 5, "test": 5}  # images of a class below which what is measured on them is chance
EXAMPLES = 5  # pairs of identical images that are named

# Pairs of splits that must not share an image, and what it spoils.
SEPARATE = (
    ("test", "train", "test accuracy is too high"),
    ("val", "train", "thresholds are chosen on images that were learnt"),
    ("test", "val", "test accuracy is too high"),
)


def audit(dataset: Images) -> dict[str, Any]:
    """Measure what may be wrong with images as data.

    Parameters
    ----------
    dataset : Images
        N images in C classes.

    Returns
    -------
    dict
        Fit for JSON, the same for the same dataset. `splits`: per split the number of images; the largest class and its share
        of images, which is the accuracy of always answering it; the fewest images of a class; the brightest and the darkest
        value of all pixels; how many images have one colour all over. `classes`: per class the number of images in train, val
        and test. `identical`: see `identical`. `skipped`: files that the source left out, by reason. `whites`: what was taken
        for white in pixels of more than 8 bits, by kind. `warnings`: one line for each thing that is probably wrong.
    """
    counts = np.stack([np.bincount(dataset.labels[dataset.indices(split)], minlength=len(dataset.names)) for split in SPLITS])
    record: dict[str, Any] = {
        "images": len(dataset.images),
        "shape": list(dataset.images.shape[1:]),
        "splits": _splits(dataset, counts),
        "classes": {name: counts[:, label].tolist() for label, name in enumerate(dataset.names.tolist())},
        "identical": identical(dataset),
        "skipped": dict(dataset.notes.skipped),
        "whites": dict(dataset.notes.whites),
    }
    return record | {"warnings": [*dataset.notes.warnings, *_warnings(record)]}


def _splits(dataset: Images, counts: np.ndarray) -> dict[str, dict[str, Any]]:
    """Return each split's entry; counts (3, C) int64 are the images of each class in each split."""
    values = dataset.images.reshape(len(dataset.images), -1)
    brightest, darkest = values.max(axis=1), values.min(axis=1)
    entries = {}
    for position, split in enumerate(SPLITS):
        here, sizes = dataset.split == position, counts[position]
        most, fewest = int(sizes.argmax()), int(sizes.argmin())
        entries[split] = {
            "images": int(sizes.sum()),
            "majority": {
                "class": str(dataset.names[most]),
                "images": int(sizes[most]),
                "share": float(sizes[most] / sizes.sum()),
            },
            "fewest": {"class": str(dataset.names[fewest]), "images": int(sizes[fewest])},
            "brightest": int(brightest[here].max()),
            "darkest": int(darkest[here].min()),
            "constant": int((brightest == darkest)[here].sum()),
        }
    return entries


def digests(images: np.ndarray) -> np.ndarray:
    """Hash each image's bytes: (N, …) uint8 to (N,) uint64. Among a million images a chance collision has probability 3·10⁻⁸."""
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    return np.frombuffer(b"".join(hashlib.blake2b(row.data, digest_size=8).digest() for row in rows), np.uint64)


def identical(dataset: Images) -> dict[str, Any]:
    """Count images that are equal to the bit: across splits, across classes, and within a split.

    Returns
    -------
    dict
        `test_in_train`, `val_in_train`, `test_in_val`: images of the first of which the second holds a copy. `repeated`: per
        split its images less the different ones among them. `contradicting`: images of which another class holds a copy.
        `examples`: some pairs of each, by the names of their files or by their positions in the dataset.
    """
    _, first, group = np.unique(digests(dataset.images), return_index=True, return_inverse=True)
    members = {split: dataset.indices(split) for split in SPLITS}
    count: dict[str, Any] = {}
    examples: dict[str, list[list[str]]] = {}
    for held, other, _ in SEPARATE:
        mate = np.full(len(first), -1)
        mate[group[members[other]][::-1]] = members[other][::-1]  # the first of each group
        copies = members[held][mate[group[members[held]]] >= 0]
        count[f"{held}_in_{other}"] = len(copies)
        examples[f"{held}_in_{other}"] = _named(dataset, copies, mate[group[copies]])
    count["repeated"] = {split: len(rows) - len(np.unique(group[rows])) for split, rows in members.items()}
    least, most = np.full(len(first), len(dataset.names)), np.full(len(first), -1)
    np.minimum.at(least, group, dataset.labels)
    np.maximum.at(most, group, dataset.labels)
    contradicting = np.flatnonzero((least < most)[group])
    count["contradicting"] = len(contradicting)
    later = contradicting[dataset.labels[contradicting] != dataset.labels[first[group[contradicting]]]]
    examples["contradicting"] = _named(dataset, later, first[group[later]])
    return count | {"examples": {name: pairs for name, pairs in examples.items() if pairs}}


def _named(dataset: Images, one: np.ndarray, other: np.ndarray) -> list[list[str]]:
    """Name some pairs of images."""
    files = dataset.notes.files
    return [
        [files[image] if files else f"image {image}" for image in pair]
        for pair in zip(one[:EXAMPLES].tolist(), other[:EXAMPLES].tolist(), strict=True)
    ]


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def _warnings(record: dict[str, Any]) -> list[str]:
    """One line for each thing that is probably wrong."""
    return [*_brightness(record), *_copies(record["identical"], record["splits"]), *_sizes(record)]


def _brightness(record: dict[str, Any]) -> list[str]:
    lines = []
    for split, entry in record["splits"].items():
        if entry["brightest"] < 128:
            lines.append(
                f"{split}: the brightest pixel of all is {entry['brightest']} of 255: nearly black; do the files hold fewer"
                " bits than their type?"
            )
        elif entry["darkest"] > 127:
            lines.append(f"{split}: the darkest pixel of all is {entry['darkest']} of 255: nearly white")
        if entry["constant"] * 100 >= entry["images"]:
            lines.append(
                f"{split}: {entry['constant']} of {entry['images']} images {_have(entry['constant'])} one colour all over"
            )
    return lines


def _copies(copied: dict[str, Any], splits: dict[str, Any]) -> list[str]:
    def such_as(name: str) -> str:
        return f"such as {' = '.join(copied['examples'][name][0])}"

    lines = []
    for held, other, harm in SEPARATE:
        if copies := copied[f"{held}_in_{other}"]:
            share, are = copies / splits[held]["images"], "image is" if copies == 1 else "images are"
            where = f"{share:.2%} of {held}, {such_as(f'{held}_in_{other}')}"
            lines.append(f"{copies} {held} {are} also in {other} ({where}): {harm}")
    if copied["contradicting"]:
        lines.append(
            f"{copied['contradicting']} images lie in two classes or more ({such_as('contradicting')}): labels contradict"
        )
    repeated = copied["repeated"]["train"]
    if repeated * 10 >= splits["train"]["images"]:
        lines.append(f"train: {repeated} of {splits['train']['images']} images repeat another of train")
    return lines


def _sizes(record: dict[str, Any]) -> list[str]:
    lines, classes = [], len(record["classes"])
    for split, entry in record["splits"].items():
        share = entry["majority"]["share"]
        if share > 1 / classes + 0.2 or entry["majority"]["images"] >= 10 * entry["fewest"]["images"]:
            lines.append(
                f"{split}: classes are imbalanced, '{entry['majority']['class']}' has {entry['majority']['images']} images and"
                f" '{entry['fewest']['class']}' {entry['fewest']['images']}: always answering '{entry['majority']['class']}' has"
                f" accuracy {share:.1%} and balanced accuracy {1 / classes:.1%}"
            )
    for position, (split, least) in enumerate(FEW.items()):
        few = [name for name, sizes in record["classes"].items() if sizes[position] < least]
        if few:
            fewest = record["splits"][split]["fewest"]
            lines.append(
                f"{split}: {len(few)} of {classes} classes {_have(len(few))} fewer than {least} images ({listed(few)}), the fewest"
                f" '{fewest['class']}' with {fewest['images']}: results for them are chance"
            )
    return lines
