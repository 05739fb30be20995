"""Small stores of random features, for the tests of what writes and reads them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calex.features.layout import Layout
from calex.features.writer import Dump

PROVENANCE = {
    "dataset_fingerprint": "dataset",
    "backbone_fingerprint": "backbone",
    "taps": ["layer1", "layer2"],
    "label_names": ["cat", "dog", "é"],
}
SMALL = Layout(views=2, images=37, taps=((4, 3, 3), (8, 2, 2)), classes=3, rows=8)


class Features(NamedTuple):
    """What goes into a store: taps (V, N, C, H, W) each, log_softmax (V, N, K), labels and index (N,)."""

    taps: list[np.ndarray]
    log_softmax: np.ndarray
    labels: np.ndarray
    index: np.ndarray


def features(layout: Layout, seed: int = 0) -> Features:
    rng = np.random.default_rng(seed)
    return Features(
        [rng.normal(size=(layout.views, layout.images, *shape)).astype(layout.precision) for shape in layout.taps],
        rng.normal(size=(layout.views, layout.images, layout.classes)).astype(np.float32),
        rng.integers(0, layout.classes, layout.images),
        rng.permutation(layout.images),
    )


def dump(folder: Path, layout: Layout = SMALL, seed: int = 0, split: str = "train", **provenance: object) -> Features:
    """Write a store, or whatever of it is still missing; returns what it holds."""
    data = features(layout, seed)
    with Dump(folder, split, layout, data.labels, data.index, PROVENANCE | provenance) as writer:
        for view, chunk, start, stop in writer.pending():
            writer.write(view, chunk, [tap[view, start:stop] for tap in data.taps], data.log_softmax[view, start:stop])
        writer.finish()
    return data


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file under a folder, by its path there."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
