"""The report's tables as data: accuracy within budgets, where images leave, the fronts, the settings that were tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from calex.comparison import paired as pairs
from calex.comparison.pareto import BUDGETS, POINT, area, at_budgets, by_backbone, curve_on_grid, deployable, fronts, over_seeds
from calex.report.claims import Claims, claims, tied
from calex.report.styles import curve_styles

# Where gains and orders are computed: at every percent of the backbone's FLOPs.
GRID = tuple(budget / 100 for budget in range(1, 101))


@dataclass(frozen=True)
class Section:
    """What the report holds of one backbone.

    points: its operating points. styles: of its curves, see `styles.curve_styles`. band: accuracies at the budgets of
    the tables, curve, budget, mean, low, high, seeds, of. rows, exit_shares: see `accuracy_rows` and `exit_shares`.
    ours: the curve to which the differences are, if there is one. claims: for each of ours. budgets: of the tables.
    """

    backbone: str
    points: pl.DataFrame
    styles: pl.DataFrame
    band: pl.DataFrame
    backbone_accuracy: float | None
    rows: list[dict[str, Any]]
    exit_shares: list[dict[str, Any]]
    ours: str | None
    claims: dict[str, Claims]
    budgets: tuple[float, ...]


def ours_of(paired: pl.DataFrame | None) -> list[tuple[str, str]]:
    """Return (method, policy) of the curves that all others are compared with, in the config's order."""
    if paired is None:
        return []
    return paired.select("ours", "ours_method", "ours_policy").unique().sort("ours").drop("ours").rows()


def budgets_of(paired: pl.DataFrame | None) -> tuple[float, ...]:
    """Return the budgets at which curves were compared, the largest first; the usual ones where none were."""
    return BUDGETS if paired is None or not len(paired) else tuple(sorted(set(paired["budget"]), reverse=True))


def sections(points: pl.DataFrame, paired: pl.DataFrame | None) -> list[Section]:
    """Make a section for each backbone. paired: as `compare` writes it; without it no curve is compared image by image."""
    styles = curve_styles(points, ours_of(paired))
    return [section(table, styles, paired) for table in by_backbone(points)]


def section(points: pl.DataFrame, styles: pl.DataFrame, paired: pl.DataFrame | None) -> Section:
    """Make the section of one backbone. styles: of all backbones together."""
    backbone = points["backbone"][0]
    methods = deployable(points)
    styles = styles.join(methods, on=("method", "policy"), how="semi", maintain_order="left")
    name = styles.select("method", "policy", "curve")
    budgets = budgets_of(paired)
    chosen = at_budgets(methods, budgets).join(name, on=("method", "policy"))
    band = over_seeds(chosen, "test_accuracy").join(name, on=("method", "policy"))
    cost = over_seeds(chosen, "test_flops_fraction").join(name, on=("method", "policy"))
    alone = points.filter((pl.col("method") == "backbone") & (pl.col("split") == "test"))
    curve_of = dict(zip(name.select("method", "policy").rows(), name["curve"], strict=True))
    pairs_of_backbone = pl.DataFrame(schema=pairs.SCHEMA) if paired is None else paired.filter(pl.col("backbone") == backbone)
    differences = {
        curve_of[method, policy]: pairs_of_backbone.filter(ours_method=method, ours_policy=policy).join(
            name, on=("method", "policy")
        )
        for method, policy in ours_of(pairs_of_backbone)
        if (method, policy) in curve_of
    }
    first = next(iter(differences), None)
    our_methods = styles.filter("ours")["method"].to_list()
    our_curves = styles.filter(pl.col("method").is_in(our_methods))["curve"].to_list()
    grid = curve_on_grid(methods, GRID).join(name, on=("method", "policy"))
    return Section(
        backbone=backbone,
        points=points,
        styles=styles,
        band=band,
        backbone_accuracy=alone["accuracy"][0] if len(alone) else None,
        rows=accuracy_rows(band, cost, area(methods).join(name, on=("method", "policy")), styles, differences.get(first)),
        exit_shares=exit_shares(chosen, styles, budgets),
        ours=first,
        claims={curve: claims(rows, grid, curve, our_curves) for curve, rows in differences.items()},
        budgets=budgets,
    )


def accuracy_rows(
    accuracy: pl.DataFrame, cost: pl.DataFrame, areas: pl.DataFrame, styles: pl.DataFrame, differences: pl.DataFrame | None
) -> list[dict[str, Any]]:
    """One row for each curve: its style, a cell for each budget, and its area.

    A cell: mean, low, high, seeds, of; cost; best (tied with the best mean); difference (a row of `paired.SCHEMA`, None
    for the curve that it would be to). The area: mean, low, high, seeds, of; covered; best.

    accuracy, cost: curve, budget and the band over seeds. areas: one row for each seed, see `pareto.area`.
    """
    by_place = {} if differences is None else {(row["curve"], row["budget"]): row for row in differences.iter_rows(named=True)}
    budgets = sorted(accuracy["budget"].unique(), reverse=True)
    near = {budget: tied(accuracy.filter(pl.col("budget") == budget)) for budget in budgets}
    area_band = over_seeds(areas, "area").join(styles.select("method", "policy", "curve"), on=("method", "policy"))
    covered = dict(areas.group_by("curve").agg(pl.col("covered").min()).iter_rows())
    near_area = tied(area_band.filter(pl.col("curve").is_in([curve for curve, share in covered.items() if share == 1])))
    mean_cost = {(row["curve"], row["budget"]): row["mean"] for row in cost.iter_rows(named=True)}
    cells = {(row["curve"], row["budget"]): row for row in accuracy.iter_rows(named=True)}
    area_of = {row["curve"]: row for row in area_band.iter_rows(named=True)}
    return [
        {
            **style,
            "cells": [
                {
                    **cells[curve, budget],
                    "cost": mean_cost[curve, budget],
                    "best": curve in near[budget],
                    "difference": by_place.get((curve, budget)),
                }
                for budget in budgets
            ],
            "area": {**area_of[curve], "covered": covered[curve], "best": curve in near_area},
        }
        for style in styles.iter_rows(named=True)
        for curve in (style["curve"],)
    ]


def exit_shares(chosen: pl.DataFrame, styles: pl.DataFrame, budgets: Sequence[float]) -> list[dict[str, Any]]:
    """For each budget: each curve's style with the shares of test images that leave at each exit, mean over seeds."""
    shares = {
        (curve, budget): [sum(share) / len(share) for share in zip(*seeds, strict=True)]
        for curve, budget, seeds in chosen.filter(pl.col("exit_share").is_not_null())
        .group_by("curve", "budget", maintain_order=True)
        .agg("exit_share")
        .iter_rows()
    }
    curves = list(styles.iter_rows(named=True))
    return [
        {"budget": budget, "curves": [{**style, "shares": shares.get((style["curve"], budget))} for style in curves]}
        for budget in budgets
    ]


def tried_settings(points: pl.DataFrame) -> list[dict[str, Any]]:
    """How many settings of each method a curve could choose among on validation: the more, the more it is flattered.

    A setting is a variant with a policy; those whose validation rows are the very same count once. A row of the
    result: method, settings, variants, policies, points (for one seed and backbone, over all settings).
    """
    swept = deployable(points).filter(pl.col("split") == "val").sort(*POINT)
    rows = []
    for (method,), each in swept.group_by("method", maintain_order=True):
        distinct = {
            tuple(setting.select("backbone", "seed", "accuracy", "flops_fraction").rows())
            for _, setting in each.group_by("variant", "policy")
        }
        rows.append(
            {
                "method": method,
                "settings": len(distinct),
                "variants": each["variant"].n_unique(),
                "policies": each["policy"].n_unique(),
                "points": each.group_by("backbone", "seed").len()["len"].max(),
            }
        )
    return rows


def front_table(points: pl.DataFrame) -> pl.DataFrame:
    """Return the fronts at their test values as a flat table: the list of exit shares becomes columns."""
    table = fronts(points)
    share = pl.col("exit_share").list
    return table.with_columns(
        *(share.get(k, null_on_oob=True).alias(f"exit_share_branch{k + 1}") for k in range(branch_count(points))),
        share.last().alias("exit_share_backbone"),
    ).drop("exit_share")


def branch_count(points: pl.DataFrame) -> int:
    """How many branches the deepest cascade has: `exit_share` has one more entry, the backbone's."""
    return max(len(share) for share in points["exit_share"]) - 1
