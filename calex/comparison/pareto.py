"""Which operating points count, decided on validation images and read off on test images.

A *curve* is everything that one (dataset, backbone, method, policy, seed) offers, its variants pooled. Points are chosen
by their `val` rows alone; the `test` rows only show what the choice turned out to be worth. Accuracies are shares of
images in [0, 1]; costs and budgets are shares of the plain backbone's FLOPs, mean over images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

CURVE = ("dataset", "backbone", "method", "policy", "seed")
POINT = ("dataset", "backbone", "method", "variant", "policy", "seed", "point")
# Policies that nobody can deploy: they know the labels, or what an image would be answered later.
BOUNDS = ("oracle", "clairvoyant")
# The budgets at which curves are compared, where a dataset names no others.
BUDGETS = (0.7, 0.6, 0.5, 0.4, 0.3)
# Area: FLOPs reductions of 30 to 70 %. Built from integers, so that 0.7 is 0.7 and not a rounding below it.
AREA_BUDGETS = tuple((np.arange(300, 701) / 1000).tolist())


def deployable(points: pl.DataFrame) -> pl.DataFrame:
    """Keep the rows of methods that one could deploy: neither the backbone's own nor a bound's."""
    return points.filter((pl.col("method") != "backbone") & ~pl.col("policy").is_in(BOUNDS))


def by_backbone(points: pl.DataFrame) -> list[pl.DataFrame]:
    """Split a table by backbone, in the order of names; the order of rows stays."""
    return points.sort("backbone", maintain_order=True).partition_by("backbone", maintain_order=True)


def front(accuracy: np.ndarray, cost: np.ndarray) -> np.ndarray:
    """Find the points that no other point beats: at least as accurate and as cheap, and better in one of the two.

    Equal points do not beat each other: duplicates stay or go together.

    Parameters
    ----------
    accuracy, cost : (P,) float64
        Of P operating points; more accuracy and less cost are better.

    Returns
    -------
    (P,) bool
        Whether each point is on the Pareto front.

    Raises
    ------
    ValueError
        If the two are not vectors of one length, or hold a value that is not finite.

    Examples
    --------
    >>> front(np.array([0.5, 0.7, 0.6, 0.9]), np.array([0.2, 0.3, 0.4, 0.8])).tolist()
    [True, True, False, True]
    """
    accuracy, cost = np.asarray(accuracy, dtype=np.float64), np.asarray(cost, dtype=np.float64)
    if accuracy.shape != cost.shape or accuracy.ndim != 1:
        raise ValueError(f"accuracy and cost must be vectors of one length, got shapes {accuracy.shape} and {cost.shape}")
    if not (np.isfinite(accuracy).all() and np.isfinite(cost).all()):
        raise ValueError("accuracy and cost must be finite: a NaN cannot be ordered")
    order = np.lexsort((-accuracy, cost))
    sorted_accuracy, sorted_cost = accuracy[order], cost[order]
    # Points of equal cost form a run, best first. A run's best stays if it exceeds everything cheaper.
    starts = np.flatnonzero(np.diff(sorted_cost, prepend=-np.inf) > 0)
    best_up_to = np.maximum.accumulate(sorted_accuracy)
    best_cheaper = np.concatenate(([-np.inf], best_up_to[starts[1:] - 1])) if len(starts) else np.empty(0)
    run = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(order)))
    mask = np.empty(len(order), dtype=bool)
    mask[order] = (sorted_accuracy == sorted_accuracy[starts][run]) & (sorted_accuracy > best_cheaper[run])
    return mask


def mark_fronts(points: pl.DataFrame) -> pl.DataFrame:
    """Add `on_front` to operating points: the front of each curve's `val` rows.

    Parameters
    ----------
    points : DataFrame
        `points.SCHEMA`; an old `on_front` is replaced.

    Returns
    -------
    DataFrame
        `points.MARKED`. All rows of a point have the same `on_front`. A point without a `val` row cannot be chosen, so
        it is on no front.
    """
    marked = [
        curve.select(*POINT, on_front=pl.Series(front(curve["accuracy"].to_numpy(), curve["flops_fraction"].to_numpy())))
        for curve in points.filter(pl.col("split") == "val").partition_by(CURVE, maintain_order=True)
    ]
    points = points.drop("on_front", strict=False)
    if not marked:
        return points.with_columns(on_front=pl.lit(False))
    return points.join(pl.concat(marked), on=POINT, how="left", maintain_order="left").with_columns(
        pl.col("on_front").fill_null(False)
    )


def at_budgets(points: pl.DataFrame, budgets: Sequence[float]) -> pl.DataFrame:
    """For each curve and budget, the point that one would deploy.

    It has the best validation accuracy among the points whose validation cost (`flops_fraction`) is at most the budget;
    ties go to the lower validation cost, then to the lower variant and point.

    Parameters
    ----------
    points : DataFrame
        `points.SCHEMA`.
    budgets : sequence of float
        The most that an image may cost in the mean, as a share of the plain backbone's FLOPs.

    Returns
    -------
    DataFrame
        A row for each curve and budget: the curve's key, budget, variant, point, parameters, val_accuracy,
        val_flops_fraction, test_accuracy, test_flops_fraction (what the choice really costs) and exit_share (test).
        Nulls where no point fits.

    Examples
    --------
    In the folder of a finished run:

    >>> points = pl.read_parquet("results/points_digits.parquet").filter(method="reference", policy="cpm_full")
    >>> chosen = at_budgets(points, [0.7, 1.1])
    >>> chosen["budget"].to_list()
    [0.7, 1.1]
    >>> (chosen["val_flops_fraction"].fill_null(0) <= chosen["budget"]).all()
    True
    """
    val = points.filter(pl.col("split") == "val").select(
        *POINT, "parameters", val_accuracy="accuracy", val_flops_fraction="flops_fraction"
    )
    test = points.filter(pl.col("split") == "test").select(
        *POINT, "exit_share", test_accuracy="accuracy", test_flops_fraction="flops_fraction"
    )
    # In the order of costs a choice changes only where the best accuracy so far is exceeded. The sort puts the winner
    # of every tie first, so the last such change within the budget is the choice.
    changes = val.sort(
        *CURVE, "val_flops_fraction", "val_accuracy", "variant", "point", descending=[False] * 6 + [True, False, False]
    ).filter(pl.col("val_accuracy") > pl.col("val_accuracy").cum_max().shift(1).over(CURVE).fill_null(-float("inf")))
    wanted = (
        points.select(CURVE)
        .unique()
        .join(pl.DataFrame({"budget": budgets}, schema={"budget": pl.Float64}), how="cross")
        .sort("budget")
    )
    chosen = wanted.join_asof(
        changes.sort("val_flops_fraction"),
        left_on="budget",
        right_on="val_flops_fraction",
        by=CURVE,
        strategy="backward",
        coalesce=False,
        check_sortedness=False,  # both sides are sorted above; polars cannot see that through `by`
    )
    return (
        chosen.join(test, on=POINT, how="left")
        .select(
            *CURVE,
            "budget",
            "variant",
            "point",
            "parameters",
            "val_accuracy",
            "val_flops_fraction",
            "test_accuracy",
            "test_flops_fraction",
            "exit_share",
        )
        .sort(*CURVE, "budget")
    )


def curve_on_grid(points: pl.DataFrame, grid: Sequence[float]) -> pl.DataFrame:
    """Each curve as a step function of the budget: the test accuracy of its choice at every budget of `grid`.

    Columns: the curve's key, budget, test_accuracy (null below the cheapest point). See `at_budgets`.
    """
    return at_budgets(points, grid).select(*CURVE, "budget", "test_accuracy")


def area(points: pl.DataFrame) -> pl.DataFrame:
    """Average the test accuracy of each curve over FLOPs reductions from 30 % to 70 %.

    Parameters
    ----------
    points : DataFrame
        `points.SCHEMA`.

    Returns
    -------
    DataFrame
        A row for each curve: its key, area (null if nothing fits), covered (the share of the range that has a point),
        partial (covered < 1). Where no point fits, the reduction is left out of the mean, so a partial area cannot be
        compared with others.
    """
    return (
        curve_on_grid(points, AREA_BUDGETS)
        .group_by(CURVE, maintain_order=True)
        .agg(area=pl.col("test_accuracy").mean(), covered=pl.col("test_accuracy").is_not_null().mean())
        .with_columns(partial=pl.col("covered") < 1)
    )


def over_seeds(frame: pl.DataFrame, value: str) -> pl.DataFrame:
    """Summarise seeds by their mean and range.

    Parameters
    ----------
    frame : DataFrame
        Curves' keys, perhaps `budget`, and the column `value`: a row for each seed.
    value : str
        The column to summarise.

    Returns
    -------
    DataFrame
        The keys without the seed, mean, low and high (minimum and maximum), seeds (how many have a value), of (how many
        there are). Only seeds with a value enter: compare `seeds` with `of`.
    """
    key = [name for name in (*CURVE, "budget") if name in frame.columns and name != "seed"]
    return (
        frame.group_by(key)
        .agg(
            mean=pl.col(value).mean(),
            low=pl.col(value).min(),
            high=pl.col(value).max(),
            seeds=pl.col(value).count().cast(pl.Int64),
            of=pl.len().cast(pl.Int64),
        )
        .sort(key)
    )


def fronts(points: pl.DataFrame) -> pl.DataFrame:
    """Return the points on a front at their test values, one row each, in the order of validation cost within a curve.

    points: `points.MARKED`. The result lacks split and on_front and has val_accuracy and val_flops_fraction, by which
    the points are on the front.
    """
    val = points.filter(pl.col("split") == "val").select(*POINT, val_accuracy="accuracy", val_flops_fraction="flops_fraction")
    return (
        points.filter((pl.col("split") == "test") & pl.col("on_front"))
        .drop("split", "on_front")
        .join(val, on=POINT, how="left")
        .sort(*CURVE, "val_flops_fraction", "variant", "point")
    )
