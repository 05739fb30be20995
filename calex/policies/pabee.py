"""Patience: an image leaves once enough exits in a row agree (PABEE, Zhou et al., NeurIPS 2020).

r_1 = 0; r_k = r_{k−1} + 1 if branch k answers as branch k − 1 did, else 0. An image leaves at the first r_k ≥ t. With few
branches there are few patiences t, so that among equal r_k the method's score decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from calex.policies._pooled import at_quantiles, quantiles
from calex.simulation.exits import Exits, SoFar

# steps: into how many equal parts the pooled patiences, with their scores, are cut; steps + 1 operating points.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def patience(predictions: np.ndarray) -> np.ndarray:
    """Count how many exits before each gave the same answer without a break: r, (K, N) int64, from predictions (K, N)."""
    counts = np.zeros(predictions.shape, np.int64)
    for k in range(1, len(predictions)):
        counts[k] = np.where(predictions[k] == predictions[k - 1], counts[k - 1] + 1, 0)
    return counts


def scores(so_far: SoFar, learnt: Mapping[str, np.ndarray], **_: Any) -> np.ndarray:
    """Order images by patience, and within a patience by the score s in [0, 1]: r + s/2, (K, N) float64."""
    return patience(so_far.predictions) + so_far.scores.astype(np.float64) / 2


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep quantiles of the pooled scores, as the policy `global` does."""
    return quantiles(steps)


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find one threshold for all branches and classes: (P, K, C) float64. Labels play no part."""
    return at_quantiles(exits, parameters["quantile"])
