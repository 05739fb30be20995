"""What a chart draws of one backbone's points: mean curves with bands, front points, oracles; few enough for a browser."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import polars as pl

from calex.comparison.pareto import BUDGETS, curve_on_grid, deployable, fronts, over_seeds
from calex.report.formatting import percent

# A browser draws a few thousand marks at ease. Curves and front points share this many rows.
MAX_ROWS = 4500


CURVES = {"curve": pl.String, "method": pl.String, "policy": pl.String, "budget": pl.Float64} | dict.fromkeys(
    ("mean", "low", "high"), pl.Float64
)


def mean_curves(points: pl.DataFrame, styles: pl.DataFrame, max_rows: int = MAX_ROWS // 2) -> pl.DataFrame:
    """Mean and range over seeds of each curve on a fine grid of budgets: curve, method, policy, budget, mean, low, high.

    Only budgets at which every seed has a point: else the mean would jump where a seed begins. Of a stretch without
    change only the ends are kept, which a step line draws alike.
    """
    cost = points.filter(pl.col("split") == "val")["flops_fraction"]
    per_curve = max(20, max_rows // len(styles))
    least, most = float(cost.to_numpy().min()), float(cost.to_numpy().max())
    step = math.ceil(200 * max(most - least, 0.005) / per_curve) / 200
    grid = np.arange(math.floor(least / step), math.ceil(most / step) + 1) * step
    band = over_seeds(curve_on_grid(points, np.round(grid, 6).tolist()), "test_accuracy")
    complete = band.filter(pl.col("seeds") == pl.col("of")).join(
        styles.select("method", "policy", "curve"), on=("method", "policy")
    )
    value = pl.struct("mean", "low", "high")
    return (
        complete.sort("curve", "budget")
        .filter(
            ((value != value.shift(1)) | (value != value.shift(-1))).over("curve").fill_null(True)
            | pl.col("budget").is_first_distinct().over("curve")
        )
        .select("curve", "method", "policy", "budget", "mean", "low", "high")
    )


def front_points(points: pl.DataFrame, styles: pl.DataFrame, max_rows: int) -> pl.DataFrame:
    """Take the points of the fronts at their test values, with what a tooltip shows.

    Of points at one place the first is kept; if there are still more than `max_rows`, they are thinned evenly.
    """
    front = fronts(points).join(styles.select("method", "policy", "curve"), on=("method", "policy"))
    place = ["curve", "seed", "variant", "accuracy", "flops_fraction", "val_accuracy", "val_flops_fraction"]
    front = front.unique(place, keep="first", maintain_order=True)
    if len(front) > max_rows:
        front = front[np.unique(np.linspace(0, len(front) - 1, max_rows).round().astype(int))]
    return front.select(
        "curve",
        "method",
        "variant",
        "policy",
        "seed",
        "parameters",
        "accuracy",
        "flops_fraction",
        "val_accuracy",
        "val_flops_fraction",
        exits=pl.Series([exit_text(share) for share in front["exit_share"]], dtype=pl.String),
    ).sort("curve", "flops_fraction")


def exit_text(shares: list[float]) -> str:
    """Write `branch 1 40% · branch 2 35% · backbone 25%`."""
    branches = [f"branch {k} {percent(share)}" for k, share in enumerate(shares[:-1], start=1)]
    return " · ".join([*branches, f"backbone {percent(shares[-1])}"])


def best_oracles(points: pl.DataFrame, styles: pl.DataFrame) -> pl.DataFrame:
    """One row for each method: its oracle, the mean over seeds of the variant whose oracle is best on validation."""
    rows = points.filter((pl.col("policy") == "oracle") & pl.col("method").is_in(styles["method"].to_list()))
    value = rows.group_by("method", "variant", "split").agg(pl.col("accuracy", "flops_fraction").mean())
    best = (
        value.filter(pl.col("split") == "val")
        .sort("method", "accuracy", "flops_fraction", "variant", descending=[False, True, False, False])
        .unique("method", keep="first", maintain_order=True)
        .select("method", "variant")
    )
    return (
        value.filter(pl.col("split") == "test")
        .join(best, on=("method", "variant"))
        .join(styles.unique("method", keep="first", maintain_order=True).select("method", "policy", "curve"), on="method")
        .select("curve", "method", "policy", "variant", "accuracy", "flops_fraction")
        .sort("curve")
    )


def ceilings(points: pl.DataFrame, styles: pl.DataFrame, max_rows: int = MAX_ROWS // 10) -> pl.DataFrame:
    """The clairvoyant's curve of each method, as `mean_curves` gives it: what no policy over its branches exceeds."""
    rows = points.filter((pl.col("policy") == "clairvoyant") & pl.col("method").is_in(styles["method"].to_list()))
    if not len(rows):
        return pl.DataFrame(schema=CURVES)
    names = styles.unique("method", keep="first", maintain_order=True).with_columns(policy=pl.lit("clairvoyant"))
    first = styles.unique("method", keep="first", maintain_order=True).select("method", shown="policy")
    curves = mean_curves(rows, names, max_rows).join(first, on="method", maintain_order="left")
    return curves.with_columns(policy="shown").drop("shown")


def close_range(curves: pl.DataFrame, included: list[float]) -> tuple[float, float]:
    """Choose the accuracies worth a close look: from where the curves are at the least budget of the tables, up to the best.

    A curve counts at that budget or, if it starts later, where it starts. The lowest quarter of the curves does not
    set the range: one failed method must not flatten the others into a line. All of `included` lies within.
    """
    at_least_budget = pl.col("low").filter(pl.col("budget") <= min(BUDGETS)).last()
    starts = (
        curves.sort("budget")
        .group_by("curve")
        .agg(pl.coalesce(at_least_budget, pl.col("low").first()), top=pl.col("high").max())
    )
    top = max([*starts["top"], *included], default=1.0)
    usual = starts["low"].quantile(0.25, interpolation="lower")
    bottom = min([*([] if usual is None else [usual]), *included, top - 0.02])
    margin = 0.06 * (top - bottom)
    return max(0.0, bottom - margin), top + 1.5 * margin


@dataclass(frozen=True)
class ChartData:
    """What a chart draws of one backbone: curves, front points, oracles, the backbone alone; and the limits of its axes.

    ceilings: the clairvoyants' curves, which do not set the limits.
    """

    curves: pl.DataFrame
    front: pl.DataFrame
    oracles: pl.DataFrame
    backbone: pl.DataFrame
    ceilings: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=CURVES))

    @property
    def costs(self) -> list[float]:
        """The limits of the horizontal axis: everything, rounded outwards."""
        costs = [
            *self.curves["budget"],
            *(cost for f in (self.front, self.oracles, self.backbone) for cost in f["flops_fraction"]),
        ]
        return [math.floor(20 * min(costs) - 0.2) / 20, math.ceil(50 * max(costs) + 0.5) / 50]

    @property
    def accuracies(self) -> tuple[list[float], list[float]]:
        """The limits of the vertical axis: for a close look (see `close_range`), and for the whole."""
        low, high = close_range(self.curves, [*self.backbone["accuracy"]])
        with_oracles = close_range(self.curves, [*self.backbone["accuracy"], *self.oracles["accuracy"]])
        # Oracles far above everything would leave the curves the foot of the view: then only the whole shows them.
        if with_oracles[1] - high <= 0.5 * (high - low):
            low, high = with_oracles
        top = max(high, with_oracles[1])
        bottom = min([low, *self.curves["low"], *self.front["accuracy"]])
        bottom -= 0.04 * (top - bottom)
        if top - bottom <= 1.6 * (high - low):  # a view that is hardly closer is of no use
            low, high = bottom, top
        return [low, high], [bottom, top]


def chart_data(points: pl.DataFrame, styles: pl.DataFrame) -> ChartData:
    """Gather what is to be drawn of one backbone's points, in at most `MAX_ROWS` rows of curves and front points."""
    methods = deployable(points)
    curves, bounds = mean_curves(methods, styles), ceilings(points, styles)
    backbone = points.filter((pl.col("method") == "backbone") & (pl.col("split") == "test"))
    label = pl.Series([f"backbone alone {percent(accuracy, 1)}" for accuracy in backbone["accuracy"]], dtype=pl.String)
    return ChartData(
        curves=curves,
        front=front_points(methods, styles, MAX_ROWS - len(curves) - len(bounds)),
        oracles=best_oracles(points, styles),
        backbone=backbone.select("accuracy", "flops_fraction", label=label),
        ceilings=bounds,
    )
