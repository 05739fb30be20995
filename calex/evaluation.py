"""From thresholds to operating points: accuracy, agreement, cost and exit shares over one split."""

from __future__ import annotations

import numpy as np
import polars as pl

from calex import cascade
from calex.exits import Exits
from calex.points import SCHEMA


def measure(exits: Exits, taken: np.ndarray) -> pl.DataFrame:
    """One row an operating point, with what it answers right and what it costs.

    Columns: n, accuracy (against labels), agreement (with the backbone), flops (mean of an image), flops_fraction (of the
    plain backbone), flops_fraction_exit_only, exit_share (K branches, then the backbone).

    taken: (P, N) uint8, the exit of each image. Shares are counted, and costs follow from the counts: exact, and
    independent of the order of images.
    """
    points, images = taken.shape
    exits_of = len(exits.predictions) + 1
    answered = cascade.answers(exits, taken)
    counts = np.stack([(taken == k).sum(axis=1) for k in range(exits_of)], axis=1)
    flops = counts @ exits.costs.by_exit() / images
    alone = counts @ exits.costs.by_exit_alone() / images
    return pl.DataFrame(
        {
            "point": np.arange(points),
            "n": np.full(points, images),
            "accuracy": (answered == exits.labels).sum(axis=1) / images,
            "agreement": (answered == exits.backbone).sum(axis=1) / images,
            "flops": flops,
            "flops_fraction": flops / exits.costs.backbone,
            "flops_fraction_exit_only": alone / exits.costs.backbone,
            "exit_share": (counts / images).tolist(),
        },
        schema_overrides={name: SCHEMA[name] for name in ("point", "n", "exit_share")},
    )


def cross_fitted(exits: Exits, assigned: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """(P, N) uint8: exits of validation images, each under thresholds calibrated without its own fold.

    assigned: (N,) the fold of each image. thresholds: (F, P, K, C), fold f's from the images outside it.
    """
    taken = np.empty((thresholds.shape[1], len(assigned)), np.uint8)
    for fold in range(len(thresholds)):
        inside = np.flatnonzero(assigned == fold)
        taken[:, inside] = cascade.leave(exits.of(inside), thresholds[fold])
    return taken
