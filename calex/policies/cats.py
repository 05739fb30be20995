"""One threshold for all branches that bounds how often the backbone would have answered otherwise (CATs, EMNLP 2021).

Schuster et al. For a validation image let S be the highest score of a branch that disagrees with the backbone: at a threshold above S it is
answered as the backbone does, wherever it leaves. The threshold is just above the ⌈(n + 1)(1 − ε)⌉-th smallest S of n images. If
new images are like them (exchangeable), the chance that one disagrees is at most ε, on average over validation sets.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.simulation.cascade import ALWAYS, NEVER
from calex.simulation.exits import Exits

LAST = ["backbone"]

# steps: steps + 1 bounds ε.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep ε from 1, at which all leave at the first branch, to 0, at which none leaves: {"disagreement": (P,) float64}.

    The values crowd towards 0, as cubes: there are the bounds that one would deploy.
    """
    return {"disagreement": ((1 - np.arange(steps + 1) / steps) ** 3).round(9)}


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find the threshold of each bound: (P, K, C) float64. Labels play no part, only the backbone's predictions."""
    disagrees = exits.predictions != exits.backbone
    highest = np.sort(np.where(disagrees, exits.scores, ALWAYS).max(axis=0))
    images = len(highest)
    rank = np.ceil(((images + 1) * (1 - parameters["disagreement"])).round(9)).astype(np.int64)
    values = np.concatenate([[ALWAYS], highest, [NEVER]])[np.clip(rank, 0, images + 1)]
    above = np.nextafter(values.astype(exits.scores.dtype), np.inf, dtype=exits.scores.dtype).astype(np.float64)
    cuts = np.where(np.isfinite(values), above, values)
    return np.broadcast_to(cuts[:, None, None], (len(cuts), len(exits.scores), exits.classes)).copy()
