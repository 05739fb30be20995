"""Running a cascade over cached exits: who leaves where, and what is answered."""

from __future__ import annotations

import numpy as np

from calex.exits import Exits


def leave(exits: Exits, thresholds: np.ndarray) -> np.ndarray:
    """(P, N) uint8: the branch (0-based) at which each image leaves; K is the backbone.

    thresholds: (P, K, C) float64, τ of each operating point, branch and predicted class. An image leaves at the
    first branch k whose score reaches the threshold of the class predicted there; +∞ lets nobody leave.
    """
    branches, images = exits.predictions.shape
    taken = np.full((len(thresholds), images), branches, np.uint8)
    for k in reversed(range(branches)):
        ready = exits.scores[k] >= thresholds[:, k, exits.predictions[k]]
        taken[ready] = k
    return taken


def oracle(exits: Exits, correct: str = "label") -> np.ndarray:
    """(1, N) uint8: the earliest branch that is right; the backbone answers where none is. Needs the answers: a bound."""
    right = exits.predictions == exits.truth(correct)
    branches = len(right)
    return np.where(right.any(axis=0), right.argmax(axis=0), branches).astype(np.uint8)[None]


def answers(exits: Exits, taken: np.ndarray) -> np.ndarray:
    """(P, N) int64: the class answered by the exit that each image took."""
    spoken = np.vstack([exits.predictions, exits.backbone[None]])
    return spoken[taken, np.arange(spoken.shape[1])]
