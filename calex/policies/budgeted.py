"""Budgeted batch classification: a fixed share of the images leaves at each exit (MSDNet, Huang et al. 2018, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.simulation.cascade import ALWAYS, NEVER
from calex.simulation.exits import Exits

# steps: into how many equal parts the way from q = 0 to q = ∞ is cut; steps + 1 operating points.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep how much deeper images go: {"deeper": (P,) float64}, cheapest first.

    MSDNet gives exit k = 1..K+1 a share proportional to q^k. `deeper` is q / (1 + q): of what two neighbouring exits get, the
    share of the deeper one. It runs evenly from 0 (all at the first branch) to 1 (all to the backbone), where q itself would
    have no end.
    """
    return {"deeper": (np.arange(steps + 1) / steps).round(9)}


def share_that_leaves(deeper: float, exits_left: int) -> float:
    """Compute the share q^k / (q^k + … + q^(K+1)) of the images that reach a branch which leaves there.

    Parameters
    ----------
    deeper : float
        d = q / (1 + q), in [0, 1].
    exits_left : int
        How many exits follow the branch, the backbone being the last.
    """
    parts = [deeper**i * (1 - deeper) ** (exits_left - i) for i in range(exits_left + 1)]
    return parts[0] / sum(parts)


def cut(scores: np.ndarray, share: float) -> float:
    """Find the threshold at which nearly a share of the images leaves.

    Equal scores leave or stay together, so of the numbers that can leave it is the nearest one, of two as near the smaller.
    All: −∞; none: +∞.

    Parameters
    ----------
    scores : (n,) float32
        In descending order.
    share : float
        In [0, 1].
    """
    ends = np.append(np.flatnonzero(np.diff(scores)) + 1, len(scores)) if len(scores) else np.zeros(0, np.int64)
    possible = np.append(0, ends)  # where a tie ends: the numbers of images that can leave
    number = possible[np.argmin(np.abs(possible - np.round(share * len(scores), 9)))]
    if number == 0:
        return NEVER
    return ALWAYS if number == len(scores) else float(scores[number - 1])


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find one threshold per branch, the same for every class: (P, K, C) float64 from validation exits.

    Each branch is cut among the images that the branches before it keep at the same operating point. Labels play no part.
    """
    branches, images = exits.scores.shape
    descending = [np.argsort(-exits.scores[k], kind="stable") for k in range(branches)]
    cuts = np.full((len(parameters["deeper"]), branches), NEVER)
    for p, deeper in enumerate(parameters["deeper"].tolist()):
        staying = np.ones(images, bool)
        for k, order in enumerate(descending):
            reached = order[staying[order]]
            cuts[p, k] = cut(exits.scores[k, reached], share_that_leaves(deeper, branches - k))
            staying &= exits.scores[k] < cuts[p, k]
    return np.broadcast_to(cuts[:, :, None], (*cuts.shape, exits.classes)).copy()
