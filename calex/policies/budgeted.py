"""Budgeted batch classification: a fixed share of the images leaves at each exit (MSDNet, Huang et al. 2018, section 3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.calibration import GO, STAY
from calex.exits import Exits

# steps: into how many equal parts the way from q = 0 to q = ∞ is cut; steps + 1 operating points.
OPTIONS = {"steps": 120}
RANGES = {"steps": "[1, inf)"}

REMEDY = "or choose another score: the branches give few different values of this one"


def parameters(steps: int, **_: Any) -> list[dict[str, float]]:
    """The operating points, cheapest first. MSDNet gives exit k = 1..K+1 a share proportional to q^k.

    What is swept is `deeper` = q / (1 + q): of what two neighbouring exits get, the share of the deeper one. It
    runs evenly from 0 (all at branch 1) to 1 (all to the backbone), where q itself would have no end.
    """
    return [{"deeper": round(float(deeper), 9)} for deeper in np.arange(steps + 1) / steps]


def share_that_leaves(deeper: float, exits_left: int) -> float:
    """Of the images that reach a branch, the share q^k / (q^k + … + q^(K+1)) that leaves there.

    exits_left: how many exits follow it, the backbone being the last. With d = `deeper`, q = d / (1 − d).
    """
    parts = [deeper**i * (1 - deeper) ** (exits_left - i) for i in range(exits_left + 1)]
    return parts[0] / sum(parts)


def cut(scores: np.ndarray, share: float) -> float:
    """The threshold at which, of the images with these scores (n,) in descending order, nearly `share`·n leave.

    Equal scores leave or stay together, so of the numbers that can leave it is the nearest one, of two as near the
    smaller. All: −∞; none: +∞.
    """
    ends = np.append(np.flatnonzero(np.diff(scores)) + 1, len(scores)) if len(scores) else np.zeros(0, np.int64)
    leaving = np.append(0, ends)  # where a tie ends: the numbers of images that can leave
    wanted = np.round(share * len(scores), 9)
    number = leaving[np.argmin(np.abs(leaving - wanted))]
    if number == 0:
        return STAY
    return GO if number == len(scores) else float(scores[number - 1])


def thresholds(exits: Exits, swept: list[dict[str, float]], correct: str, **_: Any) -> np.ndarray:
    """(P, K, C) float64 from validation exits: one threshold a branch, the same for every class. Labels play no part.

    Branch k is cut among the images that branches 1..k−1 keep at the same operating point.
    """
    branches, images = exits.scores.shape
    descending = [np.argsort(-exits.scores[k], kind="stable") for k in range(branches)]
    found = np.full((len(swept), branches), STAY)
    for p, point in enumerate(swept):
        here = np.ones(images, bool)
        for k, order in enumerate(descending):
            reached = order[here[order]]
            found[p, k] = cut(exits.scores[k, reached], share_that_leaves(point["deeper"], branches - k))
            here &= exits.scores[k] < found[p, k]
    return np.broadcast_to(found[:, :, None], (*found.shape, exits.classes)).copy()
