"""A fixed split for datasets that come without one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calex.errors import CalexError, listed
from calex.images import SPLITS


def stratified_split(labels: np.ndarray, val: int | float, test: int | float, seed: int = 0) -> np.ndarray:
    """A fixed split with every class in proportion: (N,) uint8 positions in `SPLITS`.

    val, test: numbers of images (int) or shares (float) of all N.
    """
    from sklearn.model_selection import train_test_split  # here, because sklearn takes a second to import

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


def split_head_holdout(labels: np.ndarray, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the training images that a backbone learns from, and of those that its branches learn from.

    labels: (N,) of the train split. holdout: 0 gives all to both; else this share, every class in proportion, is kept
    away from the backbone and is all that branches see: what the backbone says of it was not learnt by heart.
    """
    everyone = np.arange(len(labels))
    if holdout == 0:
        return everyone, everyone
    held = _stratified(labels, holdout, 0)
    if held is None:
        raise CalexError(f"head_holdout: {holdout} of {len(labels)} training images leaves a class out; raise it")
    kept = np.zeros(len(labels), bool)
    kept[held] = True
    return everyone[~kept], everyone[kept]


def hold_out(
    labels: np.ndarray, share: int | float, seed: int = 0, names: Sequence[str] | None = None, key: str = "val"
) -> np.ndarray:
    """A fixed share of training images that is kept for another use: (N,) uint8 positions in `SPLITS`, `train` or `val`.

    share: a number of images (int) or a share of N (float), with every class in proportion. names: of the classes. key:
    what a config calls the share. A CalexError says which class is too small, or the least share that works.
    """
    held = _stratified(labels, share, seed)
    if held is None or not _covers(labels, held):
        raise CalexError(_why_not(labels, share, seed, names, key))
    split = np.full(len(labels), SPLITS.index("train"), np.uint8)
    split[held] = SPLITS.index("val")
    return split


def _stratified(labels: np.ndarray, share: int | float, seed: int) -> np.ndarray | None:
    """The positions of a share with every class in proportion; None where it is impossible."""
    from sklearn.model_selection import train_test_split  # here, because sklearn takes a second to import

    try:
        _, held = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    except ValueError:
        return None
    return held


def _why_not(labels: np.ndarray, share: int | float, seed: int, names: Sequence[str] | None, key: str) -> str:
    """Why a share cannot be held out, and what would work."""
    present, counts = np.unique(labels, return_counts=True)
    named = [f"'{names[label]}'" if names is not None else f"'{label}'" for label in present]
    start = f"cannot hold {key}={share:g} of {len(labels)} training images out"
    single = [name for name, count in zip(named, counts, strict=True) if count < 2]
    if single:
        which = f"class {single[0]} has" if len(single) == 1 else f"{len(single)} classes ({listed(single)}) have"
        return f"{start}: {which} 1 image, and both parts need one; add images or leave the class out"
    smallest = int(counts.argmin())
    why = (
        f"each of {len(present)} classes needs one image in both parts; the smallest, {named[smallest]}, has {counts[smallest]}"
    )
    least = _least(labels, seed)
    if least is None:
        return f"{start}: {why}; add images"
    number = int(share if isinstance(share, int) else np.ceil(share * len(labels)))
    if number > least:
        return f"{start}: {why}; the most that works is {key}: {len(labels) - len(present)}"
    return f"{start}: {why}; the least that works is {key}: {least}"


def _least(labels: np.ndarray, seed: int) -> int | None:
    """The least number of images that can be held out with every class in both parts, by bisection; None if there is none."""

    def works(number: int) -> bool:
        held = _stratified(labels, number, seed)
        return held is not None and _covers(labels, held)

    classes = len(np.unique(labels))
    low, high = classes, len(labels) // 2
    if high < low or not works(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle + 1, high)
    return high


def _covers(labels: np.ndarray, held: np.ndarray) -> bool:
    """Has every class an image among those held out, and one among the others?"""
    inside = np.zeros(len(labels), bool)
    inside[held] = True
    return len(np.unique(labels[inside])) == len(np.unique(labels[~inside])) == len(np.unique(labels))
