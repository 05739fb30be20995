"""One threshold for every branch and class (as PTEEnet, Lahiany & Aperstein 2022, and ZTW, Wójcik et al. 2021, sweep it)."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.policies._pooled import at_quantiles, quantiles
from calex.simulation.exits import Exits

# steps: into how many equal parts the pooled validation scores are cut; steps + 1 operating points.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep the quantile of all branches' validation scores at which the threshold lies: {"quantile": (P,) float64}."""
    return quantiles(steps)


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find the score below which each quantile of all K·N validation scores lies: (P, K, C) float64. Labels play no part."""
    return at_quantiles(exits, parameters["quantile"])
