"""Images and labels in memory, as a notebook has them, made one dataset."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calex import images
from calex.errors import CalexError

Data = tuple[np.ndarray, np.ndarray]  # images (N, H, W, 1 or 3) uint8, all of one size, and labels (N,) whole numbers


def dataset_of(train: Data, val: Data, test: Data, classes: Sequence[str]) -> images.Images:
    """Join the images of all splits. Raises CalexError for labels that are no whole numbers, and for images of several sizes."""
    parts = [(np.asarray(pixels), np.asarray(labels)) for pixels, labels in (train, val, test)]
    for split, (_, labels) in zip(images.SPLITS, parts, strict=True):
        if labels.dtype.kind not in "iu":
            raise CalexError(f"{split}: labels are {labels.dtype}, not whole numbers; give each image the number of its class")
    sizes = [pixels.shape[1:] for pixels, _ in parts]
    if len(set(sizes)) > 1:
        raise CalexError(f"images of train, val and test are of sizes {sizes}; give one size")
    joined = images.Images(
        images=np.concatenate([pixels for pixels, _ in parts]),
        labels=np.concatenate([labels for _, labels in parts]).astype(np.int64),
        split=np.repeat(np.arange(3, dtype=np.uint8), [len(pixels) for pixels, _ in parts]),
        names=np.array(classes),
    )
    return images.checked(joined, "fit")
