"""Cross-fitting: validation images leave by rules that were calibrated without them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from calex.simulation.exits import Exits
from calex.simulation.rule import Rule


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


def leave(exits: Exits, folds: np.ndarray, rules: Sequence[Rule]) -> np.ndarray:
    """Find the exit of each image under the rule that was calibrated without its own fold.

    Parameters
    ----------
    exits : Exits
        K branches over N validation images.
    folds : (N,) int64
        The fold of each image.
    rules : F rules
        That of fold f comes from the images outside it.

    Returns
    -------
    (P, N) uint8
        As `calex.simulation.cascade.leave` gives it.
    """
    taken = np.empty((len(rules[0].thresholds), len(folds)), np.uint8)
    for fold, rule in enumerate(rules):
        inside = np.flatnonzero(folds == fold)
        taken[:, inside] = rule.leave(exits.of(inside))
    return taken
