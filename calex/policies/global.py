"""One threshold for every branch and class (as PTEEnet, Lahiany & Aperstein 2022, and ZTW, Wójcik et al. 2021, sweep it)."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.simulation.cascade import ALWAYS, NEVER
from calex.simulation.exits import Exits

# steps: into how many equal parts the pooled validation scores are cut; steps + 1 operating points.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep the quantile of all branches' validation scores at which the threshold lies: {"quantile": (P,) float64}.

    Cheapest first. Quantiles and not thresholds, so that the sweep is even however the scores crowd: a network that is sure of
    itself puts most of them above 0.99.
    """
    return {"quantile": (np.arange(steps + 1) / steps).round(9)}


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find the score below which each quantile of all K·N validation scores lies: (P, K, C) float64.

    Quantile 0 is −∞ (everything leaves at the first branch) and 1 is +∞ (nothing leaves). Labels play no part.
    """
    quantiles = parameters["quantile"]
    pooled = np.append(np.sort(exits.scores, axis=None).astype(np.float64), NEVER)
    below = np.minimum((quantiles * (len(pooled) - 1) + 1e-9).astype(np.int64), len(pooled) - 1)
    cuts = np.where(quantiles <= 0, ALWAYS, pooled[below])
    return np.broadcast_to(cuts[:, None, None], (len(cuts), len(exits.scores), exits.classes)).copy()
