"""How much better one curve answers the same test images than another: a difference with an interval.

Both curves are taken at the points that validation images chose, and answer the same images with the same seeds.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import polars as pl

# One row for each backbone, budget, curve of ours and other curve; results/README.md explains each column.
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
NULLABLE = ("accuracy", "ours_accuracy", "difference", "low", "high")  # null where a curve has no point for some seed
Z95 = 1.959963984540054  # the normal's 97.5 % quantile


class Difference(NamedTuple):
    """The mean difference of two accuracies, and the ends of its 95 % interval; shares of images in [−1, 1]."""

    mean: float
    low: float
    high: float


def difference(theirs: np.ndarray, ours: np.ndarray) -> Difference:
    """Measure the accuracy of a curve less that of ours, with a 95 % interval.

    An image counts once, with its mean over seeds: d_i in [−1, 1]. Images are what is sampled, so the interval is about
    other test images, for these seeds and these points; it holds nothing of what other seeds, another backbone or other
    validation images would change.

    Parameters
    ----------
    theirs, ours : (S, N) bool
        Whether each of S seeds answers each of N images correctly.

    Returns
    -------
    Difference
        Above 0 where theirs is better.

    Raises
    ------
    ValueError
        If the two are empty or not of one shape (S, N).

    Notes
    -----
    The interval is that of Agresti and Min (2005) for matched proportions: Wald's, after half an image is added to each
    of the four cells of the 2×2 table. That leaves the sum of d, adds 1 to the sum of its squares and 2 to N. Wald's
    own, and a bootstrap's, shrinks to nothing where curves disagree on few images, which is the rule among cascades over
    one backbone; this one keeps its coverage there (Fagerland, Lydersen and Laake 2014), needs no random numbers, and
    costs nothing.

    Examples
    --------
    >>> ours = np.ones((1, 98), dtype=bool)
    >>> theirs = ours.copy()
    >>> theirs[0, :10] = False
    >>> mean, low, high = difference(theirs, ours)
    >>> round(mean, 3), round(low, 3), round(high, 3)
    (-0.102, -0.162, -0.038)
    """
    if theirs.shape != ours.shape or theirs.ndim != 2 or not theirs.size:
        raise ValueError(f"expected two (seeds, images) arrays of one shape, got {theirs.shape} and {ours.shape}")
    d = theirs.mean(axis=0) - ours.mean(axis=0)
    images = len(d) + 2
    centre = d.sum() / images
    half_width = Z95 * np.sqrt(((np.square(d).sum() + 1) / images - centre**2) / images)
    return Difference(float(d.mean()), float(max(-1.0, centre - half_width)), float(min(1.0, centre + half_width)))
