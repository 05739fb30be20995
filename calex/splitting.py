"""A fixed split for datasets that come without one."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import train_test_split

from calex.errors import CalexError
from calex.images import SPLITS


def stratified_split(labels: np.ndarray, val: int | float, test: int | float, seed: int = 0) -> np.ndarray:
    """A fixed split with every class in proportion: (N,) uint8 positions in `SPLITS`.

    val, test: numbers of images (int) or shares (float) of all N.
    """
    split = np.zeros(len(labels), np.uint8)
    everyone = np.arange(len(labels))
    try:
        rest, held = train_test_split(everyone, test_size=test, random_state=seed, stratify=labels)
        share = val if isinstance(val, int) else round(val * len(labels))
        _, validation = train_test_split(rest, test_size=share, random_state=seed, stratify=labels[rest])
    except ValueError as error:
        raise CalexError(f"cannot split {len(labels)} images into val={val} and test={test}: {error}") from None
    split[validation], split[held] = SPLITS.index("val"), SPLITS.index("test")
    return split


def apart(labels: np.ndarray, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training images that a backbone learns from, and of those that its branches learn from.

    labels: (N,) of the train split. holdout: 0 gives all to both; else this share, every class in proportion, is kept
    away from the backbone and is all that branches see: what the backbone says of it was not learnt by heart.
    """
    everyone = np.arange(len(labels))
    if holdout == 0:
        return everyone, everyone
    try:
        kept = held_out(labels, holdout) == SPLITS.index("val")
    except CalexError:
        raise CalexError(f"head_holdout: {holdout} of {len(labels)} training images leaves a class out; raise it") from None
    return everyone[~kept], everyone[kept]


def held_out(labels: np.ndarray, val: int | float, seed: int = 0) -> np.ndarray:
    """A fixed validation share of training images: (N,) uint8 positions in `SPLITS`, `train` or `val`.

    val: a number of images (int) or a share of N (float), with every class in proportion.
    """
    split = np.full(len(labels), SPLITS.index("train"), np.uint8)
    try:
        _, validation = train_test_split(np.arange(len(labels)), test_size=val, random_state=seed, stratify=labels)
    except ValueError as error:
        raise CalexError(f"cannot hold val={val} of {len(labels)} training images out: {error}") from None
    split[validation] = SPLITS.index("val")
    return split
