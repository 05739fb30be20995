"""Exits as experts that vote: each adds its score to that of the exits before that agree (BEEM, Bajpai & Hanawal, ICLR 2025).

S_1 = w_1·s_1; S_k = w_k·s_k + S_{k−1} if branch k answers as branch k − 1 did, else w_k·s_k. An image leaves at the first
S_k ≥ α. As the paper says it: its released code counts agreeing exits instead and lets an image leave by that count.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from calex.policies._pooled import at_quantiles, quantiles
from calex.simulation.exits import Exits, SoFar

# weights: w_k is the branch's `accuracy` on validation images, or `uniform`, 1.
# steps: into how many equal parts the pooled sums are cut; steps + 1 operating points.
OPTIONS = {"weights": "accuracy", "steps": 120}
CHOICES = {"weights": ["accuracy", "uniform"]}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def learn(exits: Exits, parameters: dict[str, np.ndarray], correct: str, weights: str, **_: Any) -> dict[str, np.ndarray]:
    """Weigh each branch: w, (1, K) float64, the same at all operating points."""
    accuracy = (exits.predictions == exits.truth(correct)).mean(axis=1)
    return {"weights": (accuracy if weights == "accuracy" else np.ones(len(accuracy)))[None]}


def scores(so_far: SoFar, learnt: Mapping[str, np.ndarray], **_: Any) -> np.ndarray:
    """Sum the weighted scores of agreeing exits: S, (K, N) float64."""
    weighted = learnt["weights"][0, : len(so_far.scores), None] * so_far.scores
    for k in range(1, len(weighted)):
        weighted[k] += np.where(so_far.predictions[k] == so_far.predictions[k - 1], weighted[k - 1], 0)
    return weighted


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep α over quantiles of the pooled sums, as the policy `global` does."""
    return quantiles(steps)


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find one threshold α for all branches and classes: (P, K, C) float64."""
    return at_quantiles(exits, parameters["quantile"])
