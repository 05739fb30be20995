"""An image leaves where images of its score are right often enough on validation (PCEE, Mofakhami et al. 2024).

Each branch's score is mapped to the accuracy of validation images at that score, by the isotonic map that fits best; one
required accuracy α is swept for all branches.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.simulation.cascade import NEVER
from calex.simulation.exits import Exits

# steps: steps + 1 required accuracies.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep α from 0, at which all leave at the first branch, to 1, at which none leaves: {"accuracy": (P,) float64}.

    The values crowd towards 1, as cubes: most images of a good branch have scores that are nearly always right.
    """
    return {"accuracy": (1 - (1 - np.arange(steps + 1) / steps) ** 3).round(9)}


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find the least score of each branch at which the fitted accuracy reaches α: (P, K, C) float64.

    No estimate is certain: at α = 1 none leaves. At α = 0 all leave.
    """
    right = exits.predictions == exits.truth(correct)
    required = parameters["accuracy"]
    cuts = np.full((len(required), len(right)), NEVER)
    for k, (scores, is_right) in enumerate(zip(exits.scores, right, strict=True)):
        values, accuracy = isotonic(scores, is_right)
        place = np.searchsorted(accuracy, required - 1e-12)
        cuts[:, k] = np.append(values.astype(np.float64), NEVER)[place]
    cuts[required <= 0], cuts[required >= 1] = -np.inf, NEVER
    return np.broadcast_to(cuts[:, :, None], (*cuts.shape, exits.classes)).copy()


def isotonic(scores: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fit the accuracy that never falls as the score rises, by least squares.

    scores, right: (n,) float and bool. Returns the distinct scores in ascending order and the accuracy at each, (m,) both.
    """
    from scipy.optimize import isotonic_regression  # here, because other policies do not need it

    values, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    if not len(values):
        return values, np.zeros(0)
    return values, isotonic_regression(np.bincount(which, right) / counts, weights=counts).x
