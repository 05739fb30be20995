"""Cross-fitting: validation images leave by thresholds that were calibrated without them."""

from __future__ import annotations

import numpy as np

from calex.simulation import cascade
from calex.simulation.exits import Exits


def assign_folds(predictions: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """Assign images to folds, the same ones each time, stratified by class.

    Parameters
    ----------
    predictions : (N,) int64
        The backbone's predictions and not the labels: which thresholds are applied to an image must not depend on its label.
    count : int
        The number of folds F.
    seed : int
        Of the shuffle within each class.

    Returns
    -------
    (N,) int64
        The fold of each image, in [0, F).
    """
    generator = np.random.default_rng(seed)
    folds = np.empty(len(predictions), np.int64)
    shuffled = generator.permutation(len(predictions))
    by_class = shuffled[np.argsort(predictions[shuffled], kind="stable")]
    folds[by_class] = np.arange(len(predictions)) % count
    return folds


def leave(exits: Exits, folds: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Find the exit of each image under the thresholds that were calibrated without its own fold.

    Parameters
    ----------
    exits : Exits
        K branches over N validation images.
    folds : (N,) int64
        The fold of each image.
    thresholds : (F, P, K, C) float64
        Those of fold f come from the images outside it.

    Returns
    -------
    (P, N) uint8
        As `calex.simulation.cascade.leave` gives it.
    """
    taken = np.empty((thresholds.shape[1], len(folds)), np.uint8)
    for fold in range(len(thresholds)):
        inside = np.flatnonzero(folds == fold)
        taken[:, inside] = cascade.leave(exits.of(inside), thresholds[fold])
    return taken
