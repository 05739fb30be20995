"""One threshold for all branches and classes, swept over quantiles of all scores: shared by policies that have one."""

from __future__ import annotations

import numpy as np

from calex.simulation.cascade import ALWAYS, NEVER
from calex.simulation.exits import Exits


def quantiles(steps: int) -> dict[str, np.ndarray]:
    """Sweep the quantile of all branches' validation scores at which the threshold lies: {"quantile": (P,) float64}.

    Cheapest first. Quantiles and not thresholds, so that the sweep is even however the scores crowd: a network that is sure of
    itself puts most of them above 0.99.
    """
    return {"quantile": (np.arange(steps + 1) / steps).round(9)}


def at_quantiles(exits: Exits, quantiles: np.ndarray) -> np.ndarray:
    """Find the score below which each quantile of all K·N validation scores lies: (P, K, C) float64.

    Quantile 0 is −∞ (everything leaves at the first branch) and 1 is +∞ (nothing leaves).
    """
    pooled = np.append(np.sort(exits.scores, axis=None).astype(np.float64), NEVER)
    below = np.minimum((quantiles * (len(pooled) - 1) + 1e-9).astype(np.int64), len(pooled) - 1)
    cuts = np.where(quantiles <= 0, ALWAYS, pooled[below])
    return np.broadcast_to(cuts[:, None, None], (len(cuts), len(exits.scores), exits.classes)).copy()
