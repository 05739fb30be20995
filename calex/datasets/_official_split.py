"""Published datasets that come as a train and a test part: joined, with validation images held out of train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calex.datasets._memory import allocate
from calex.images import SPLITS, Images
from calex.images.splitting import hold_out

Part = tuple[np.ndarray, np.ndarray]  # (n, H, W, C) uint8 images and (n,) int64 labels


def joined(train: Sequence[Part], test: Part, names: np.ndarray, val: int, split_seed: int, label: str) -> Images:
    """Join the parts in their order, with a fixed share of train held out for validation."""
    parts = [*train, test]
    pixels = allocate((sum(len(images) for images, _ in parts), *test[0].shape[1:]), label, "take a machine with more")
    start = 0
    for images, _ in parts:
        pixels[start : start + len(images)] = images
        start += len(images)
    labels = np.concatenate([labels for _, labels in parts])
    split = np.full(len(labels), SPLITS.index("test"), np.uint8)
    learnt = len(labels) - len(test[1])
    split[:learnt] = hold_out(labels[:learnt], val, split_seed, names.tolist())
    return Images(images=pixels, labels=labels, split=split, names=names)
