"""How much better one curve answers the same test images than another: a difference with an interval.

Both curves are taken at the points that validation images chose, and answer the same images with the same seeds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

# One row a backbone, budget and curve; results/README.md explains each column.
SCHEMA = {
    "dataset": pl.String,
    "backbone": pl.String,
    "budget": pl.Float64,
    "method": pl.String,
    "policy": pl.String,
    "ours": pl.Int64,
    "ours_method": pl.String,
    "ours_policy": pl.String,
    "n": pl.Int64,
    "seeds": pl.Int64,
    "of": pl.Int64,
    "accuracy": pl.Float64,
    "ours_accuracy": pl.Float64,
    "difference": pl.Float64,
    "low": pl.Float64,
    "high": pl.Float64,
}
GAPS = ("accuracy", "ours_accuracy", "difference", "low", "high")  # where a curve has no point for some seed
Z95 = 1.959963984540054  # the normal's 97.5 % quantile


class Difference(NamedTuple):
    """In shares of images: the mean difference, and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


def difference(theirs: np.ndarray, ours: np.ndarray) -> Difference:
    """Accuracy of a curve less that of ours, above 0 where theirs is better, with a 95 % interval.

    theirs, ours: (S, N) bool, whether each of S seeds answers each of N images right. An image counts once, with the
    mean over seeds: d_i in [−1, 1]. Images are what is sampled, so the interval says what other test images would
    do to these seeds, with these points; it holds nothing of what other seeds, another backbone or other validation
    images would change.

    The interval is that of Agresti and Min (2005) for matched proportions: Wald's, after half an image is added to
    each of the four cells of the 2×2 table. That leaves the sum of d, adds 1 to the sum of its squares and 2 to N.
    Wald's own, and a bootstrap's, shrinks to nothing where curves disagree on few images, which is the rule among
    cascades over one backbone; this one keeps its coverage there (Fagerland, Lydersen and Laake 2014), needs no
    random numbers, and costs nothing.
    """
    if theirs.shape != ours.shape or theirs.ndim != 2 or not theirs.size:
        raise ValueError(f"expected two (seeds, images) arrays of one shape, got {theirs.shape} and {ours.shape}")
    d = theirs.mean(axis=0) - ours.mean(axis=0)
    images = len(d) + 2
    centre = d.sum() / images
    spread = Z95 * np.sqrt(((np.square(d).sum() + 1) / images - centre**2) / images)
    return Difference(float(d.mean()), float(max(-1.0, centre - spread)), float(min(1.0, centre + spread)))
