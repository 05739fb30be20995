"""Fixed splits of images, every class in proportion."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calex.errors import CalexError, listed
from calex.images import SPLITS


def stratified_split(labels: np.ndarray, val: int | float, test: int | float, seed: int = 0) -> np.ndarray:
    """Split images into train, validation and test images, with every class in proportion.

    Parameters
    ----------
    labels : (N,) int64
        The class of each image.
    val, test : int or float
        Numbers of images (int) or shares of all N (float).
    seed : int
        Which of the possible splits.

    Returns
    -------
    (N,) uint8
        The position in `SPLITS` of each image.

    Raises
    ------
    CalexError
        If a class has too few images, with the size that would work.
    """
    start = f"cannot split {len(labels)} images into val={val} and test={test}"
    parts = _stratified(labels, test, seed)
    if parts is None:
        raise CalexError(f"{start}: {_obstacle(labels, test, seed, None, 'test')}")
    rest, held = parts
    share = val if isinstance(val, int) else round(val * len(labels))
    parts = _stratified(labels[rest], share, seed)
    if parts is None:
        raise CalexError(f"{start}: {_obstacle(labels[rest], share, seed, None, 'val')}")
    split = np.full(len(labels), SPLITS.index("train"), np.uint8)
    split[rest[parts[1]]], split[held] = SPLITS.index("val"), SPLITS.index("test")
    return split


def hold_out(
    labels: np.ndarray, share: int | float, seed: int = 0, names: Sequence[str] | None = None, key: str = "val"
) -> np.ndarray:
    """Hold a fixed share of training images out, with every class in proportion.

    Parameters
    ----------
    labels : (N,) int64
        The class of each training image.
    share : int or float
        A number of images (int) or a share of N (float).
    seed : int
        Which of the possible shares.
    names : sequence of str, optional
        The classes' names, for errors.
    key : str
        What a config calls the share, for errors.

    Returns
    -------
    (N,) uint8
        The position in `SPLITS` of each image: `val` if it is held out, whatever for, else `train`.

    Raises
    ------
    CalexError
        If a class would have no image among either, with the least share that works.
    """
    parts = _stratified(labels, share, seed)
    if parts is None or not _covers(labels, parts):
        raise CalexError(
            f"cannot hold {key}={share:g} of {len(labels)} training images out: {_obstacle(labels, share, seed, names, key)}"
        )
    split = np.full(len(labels), SPLITS.index("train"), np.uint8)
    split[parts[1]] = SPLITS.index("val")
    return split


def split_head_holdout(labels: np.ndarray, holdout: float) -> tuple[np.ndarray, np.ndarray]:
    """Divide the train split between a backbone and its branches.

    A backbone is over-confident about images that it was trained on. A share that is kept away from it shows branches what
    it answers on others.

    Parameters
    ----------
    labels : (N,) int64
        The class of each training image.
    holdout : float
        The share that only branches are trained on, every class in proportion; 0 gives all images to both.

    Returns
    -------
    tuple of (n,) int64
        The positions of the backbone's images, and those of the branches', each in increasing order.

    Raises
    ------
    CalexError
        If the share is too small for the number of classes.
    """
    everyone = np.arange(len(labels))
    if holdout == 0:
        return everyone, everyone
    parts = _stratified(labels, holdout, 0)
    if parts is None:
        raise CalexError(f"head_holdout: {holdout} of {len(labels)} training images leaves a class out; raise it")
    return np.sort(parts[0]), np.sort(parts[1])


Parts = tuple[np.ndarray, np.ndarray]  # the positions that remain, and those that are held out, both in random order


def _stratified(labels: np.ndarray, share: int | float, seed: int) -> Parts | None:
    """Divide into two parts with every class in proportion; None where that is impossible."""
    from sklearn.model_selection import train_test_split  # here, because sklearn takes a second to import

    try:
        rest, held = train_test_split(np.arange(len(labels)), test_size=share, random_state=seed, stratify=labels)
    except ValueError:
        return None
    return rest, held


def _covers(labels: np.ndarray, parts: Parts) -> bool:
    """Tell whether every class has an image in both parts."""
    return all(len(np.unique(labels[part])) == len(np.unique(labels)) for part in parts)


def _obstacle(labels: np.ndarray, share: int | float, seed: int, names: Sequence[str] | None, key: str) -> str:
    """Say why a share cannot be held out, and what would work: the end of an error."""
    present, counts = np.unique(labels, return_counts=True)
    named = [f"'{names[label]}'" if names is not None else f"'{label}'" for label in present]
    single = [name for name, count in zip(named, counts, strict=True) if count < 2]
    if single:
        which = f"class {single[0]} has" if len(single) == 1 else f"{len(single)} classes ({listed(single)}) have"
        return f"{which} 1 image, and both parts need one; add images or leave the class out"
    fewest = int(counts.argmin())
    need = f"each of {len(present)} classes needs one image in both parts; the smallest, {named[fewest]}, has {counts[fewest]}"
    least = _least(labels, seed)
    if least is None:
        return f"{need}; add images"
    wanted = share if isinstance(share, int) else share * len(labels)
    return (
        f"{need}; the least that works is {key}: {least}" if wanted < least else f"{need}; lower {key}, down to {least} works"
    )


def _least(labels: np.ndarray, seed: int) -> int | None:
    """Find by bisection the least number of images to hold out with every class in both parts; None if there is none."""

    def works(number: int) -> bool:
        parts = _stratified(labels, number, seed)
        return parts is not None and _covers(labels, parts)

    low, high = len(np.unique(labels)), len(labels) // 2
    if high < low or not works(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle + 1, high)
    return high
