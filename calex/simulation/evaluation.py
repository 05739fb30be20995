"""From exits taken to operating points: accuracy, agreement, cost and exit shares over one split."""

from __future__ import annotations

import numpy as np
import polars as pl

from calex.simulation import cascade
from calex.simulation.exits import Exits
from calex.simulation.points import SCHEMA


def measure(exits: Exits, taken: np.ndarray) -> pl.DataFrame:
    """Measure each operating point over a split's images.

    Shares are counted, and costs follow from the counts: exact, and independent of the order of images.

    Parameters
    ----------
    exits : Exits
        K branches over N images.
    taken : (P, N) uint8
        The exit of each image at each operating point, as `calex.simulation.cascade.leave` gives it.

    Returns
    -------
    polars.DataFrame
        One row per point: `point`, `n` (images), `accuracy` (against labels), `agreement` (with the backbone), `flops` (mean
        per image), `flops_fraction` (of the plain backbone), `flops_fraction_exit_only` (as if declined heads were free),
        `exit_share` (of K branches, then the backbone).

    Examples
    --------
    One of two images leaves at the only branch with a wrong answer, the other gets the backbone's:

    >>> import numpy as np
    >>> from calex.simulation.cost import Costs
    >>> exits = Exits(
    ...     predictions=np.array([[1, 1]]), scores=np.array([[0.9, 0.1]]), labels=np.array([0, 0]),
    ...     backbone=np.array([0, 0]), classes=2, costs=Costs((40.0,), (10.0,), 100.0),
    ... )
    >>> row = measure(exits, np.array([[0, 1]], np.uint8)).row(0, named=True)
    >>> row["accuracy"], row["flops"], row["exit_share"]
    (0.5, 80.0, [0.5, 0.5])
    """
    points, images = taken.shape
    exit_count = len(exits.predictions) + 1
    answers = cascade.predict(exits, taken)
    counts = np.stack([(taken == k).sum(axis=1) for k in range(exit_count)], axis=1)
    flops = counts @ exits.costs.by_exit() / images
    exit_only = counts @ exits.costs.by_exit_alone() / images
    return pl.DataFrame(
        {
            "point": np.arange(points),
            "n": np.full(points, images),
            "accuracy": (answers == exits.labels).sum(axis=1) / images,
            "agreement": (answers == exits.backbone).sum(axis=1) / images,
            "flops": flops,
            "flops_fraction": flops / exits.costs.backbone,
            "flops_fraction_exit_only": exit_only / exits.costs.backbone,
            "exit_share": (counts / images).tolist(),
        },
        schema_overrides={name: SCHEMA[name] for name in ("point", "n", "exit_share")},
    )
