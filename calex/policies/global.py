"""One threshold for every branch and class (as PTEEnet, Lahiany & Aperstein 2022, and ZTW, Wójcik et al. 2021, sweep it)."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.calibration import GO, STAY
from calex.exits import Exits

# steps: into how many equal parts the pooled validation scores are cut; steps + 1 operating points.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def parameters(steps: int, **_: Any) -> list[dict[str, float]]:
    """The operating points, cheapest first: at which quantile of all branches' validation scores the threshold lies.

    Quantiles and not thresholds, so that the sweep is even however the scores crowd: a network that is sure of
    itself puts most of them above 0.99.
    """
    return [{"quantile": round(float(quantile), 9)} for quantile in np.arange(steps + 1) / steps]


def thresholds(exits: Exits, swept: list[dict[str, float]], correct: str, **_: Any) -> np.ndarray:
    """(P, K, C) float64 from validation exits: the score below which that share of all K·N scores lies.

    Quantile 0 is −∞ (everything leaves at branch 1) and 1 is +∞ (nothing leaves). Labels play no part.
    """
    pooled = np.sort(exits.scores, axis=None).astype(np.float64)
    found = np.full(len(swept), STAY)
    for p, point in enumerate(swept):
        below = int(point["quantile"] * len(pooled) + 1e-9)
        if point["quantile"] <= 0:
            found[p] = GO
        elif below < len(pooled):
            found[p] = pooled[below]
    return np.broadcast_to(found[:, None, None], (len(swept), len(exits.scores), exits.classes)).copy()
