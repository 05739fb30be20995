"""The report of one data set: a page that stands alone, and the chart and its numbers as files of their own.

Everything is computed from the table of operating points; a run's description only adds what was run. Equal
input gives equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
import yaml

from calex.chart import chart, real, spec, styles
from calex.errors import CalexError
from calex.headline import headline, listed, tied
from calex.page import counted, renumbered, template
from calex.pareto import POINT, area, at_budgets, fronts, over_seeds
from calex.points import MARKED

BUDGETS = (0.7, 0.6, 0.5, 0.4, 0.3)


@dataclass(frozen=True)
class Report:
    """The page, the chart as vector and as raster picture, the fronts at their test values."""

    html: str
    svg: str
    png: bytes
    csv: str


def read_points(path: str | Path) -> pl.DataFrame:
    """The table of operating points, or a `CalexError` that says what is wrong with it."""
    try:
        points = pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise CalexError(f"{path}: not a readable Parquet file ({_first_line(error)}); rerun the step `pareto`") from None
    if missing := [name for name in MARKED if name not in points.columns]:
        raise CalexError(f"{path}: no column {listed(missing)}; this is not a table of operating points as `pareto` writes it")
    try:
        points = points.select(MARKED.keys()).cast(MARKED)  # type: ignore[arg-type]
    except pl.exceptions.PolarsError as error:
        raise CalexError(f"{path}: a column has the wrong type ({_first_line(error)}); rerun the step `pareto`") from None
    check(points, str(path))
    return points


def check(points: pl.DataFrame, source: str) -> None:
    """What a report relies on: one data set, methods to show, each point once a split, values in their range."""
    if points["dataset"].n_unique() != 1:
        found = listed(sorted(points["dataset"].unique())) if len(points) else "no rows"
        raise CalexError(f"{source}: a report is about one data set, this table has {found}; filter it by `dataset`")
    if not len(real(points)):
        raise CalexError(f"{source}: no operating points but the backbone's and oracles'; evaluate at least one method")
    if points.select(*POINT, "split").is_duplicated().any():
        row = points.filter(points.select(*POINT, "split").is_duplicated()).row(0, named=True)
        raise CalexError(f"{source}: {_name(row)} is there twice for split {row['split']}; a point has one row a split")
    splits = points.group_by(POINT, maintain_order=True).agg(pl.col("split").sort())
    lone = splits.filter(pl.col("split") != ["test", "val"])
    if len(lone):
        row = lone.row(0, named=True)
        raise CalexError(f"{source}: {_name(row)} has rows for split {listed(row['split'])}; it needs val and test, no other")
    wrong = points.filter(
        ~pl.col("accuracy").is_between(0, 1) | ~(pl.col("flops_fraction").is_finite() & (pl.col("flops_fraction") > 0))
        | pl.any_horizontal(pl.col("accuracy", "flops_fraction", "exit_share").is_null())
    )  # fmt: skip
    if len(wrong):
        row = wrong.row(0, named=True)
        raise CalexError(
            f"{source}: {_name(row)} has accuracy {row['accuracy']} at flops_fraction {row['flops_fraction']}; "
            "expected an accuracy in [0, 1] and a positive, finite cost"
        )


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _name(row: dict[str, Any]) -> str:
    return f"point {row['point']} of {row['backbone']}/{row['method']}/{row['variant']}/{row['policy']}/seed{row['seed']}"


def build(points: pl.DataFrame, run: dict[str, Any]) -> Report:
    """The report for a checked table of points. `run` may lack any entry: what it lacks is not shown."""
    svg = picture(points)
    return Report(html=page(points, run), svg=svg, png=vl_convert.svg_to_png(svg, scale=2), csv=front_table(points).write_csv())


def page(points: pl.DataFrame, run: dict[str, Any]) -> str:
    """The page as HTML, with everything it needs inside."""
    names = styles(points)
    return template("report.html").render(
        dataset=points["dataset"][0],
        sections=[section(table, names, run) for table in by_backbone(points)],
        budgets=BUDGETS,
        seeds=real(points)["seed"].unique().sort().to_list(),
        images=dict(points.group_by("split").agg(pl.col("n").max()).iter_rows()),
        tones=tones(branches(points)),
        run=run,
        config=yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True, width=100) if run.get("config") else "",
    )


def picture(points: pl.DataFrame) -> str:
    """The charts as one SVG, with the title and the legend that they need away from the page."""
    names = styles(points)
    seeds = real(points)["seed"].n_unique()
    lines_under = [
        f"Line: mean over {counted(seeds, 'seed')} of the branches, band: their range (minimum to maximum).",
        "Marks: operating points chosen on validation images, drawn at their test values.",
    ]
    charts = [
        chart(table, names, [f"Early exits on {table['dataset'][0]}: {table['backbone'][0]}", *lines_under], place)
        for place, table in enumerate(by_backbone(points))
    ]
    return renumbered(vl_convert.vegalite_to_svg(spec(charts)))


def by_backbone(points: pl.DataFrame) -> list[pl.DataFrame]:
    return points.sort("backbone", maintain_order=True).partition_by("backbone", maintain_order=True)


def section(points: pl.DataFrame, names: pl.DataFrame, run: dict[str, Any]) -> dict[str, Any]:
    """What the page says of one backbone."""
    backbone = points["backbone"][0]
    methods = real(points)
    names = names.join(methods, on=("method", "policy"), how="semi", maintain_order="left")
    label = names.select("method", "policy", "curve")
    chosen = at_budgets(methods, BUDGETS)
    accuracy = over_seeds(chosen, "test_accuracy").join(label, on=("method", "policy"))
    cost = over_seeds(chosen, "test_flops_fraction").join(label, on=("method", "policy"))
    areas = area(methods)
    plain = points.filter((pl.col("method") == "backbone") & (pl.col("split") == "test"))
    alone = plain["accuracy"][0] if len(plain) else None
    return {
        "backbone": backbone,
        "about": run.get("backbones", {}).get(backbone, {}),
        "fingerprint": run.get("fingerprints", {}).get("backbones", {}).get(backbone),
        "alone": alone,
        "headline": headline(accuracy, alone),
        "spec": spec([chart(points, names)], background="transparent"),
        "has_oracle": bool((points["policy"] == "oracle").any()),
        "rows": table_rows(accuracy, cost, areas.join(label, on=("method", "policy")), names),
        "shares": exit_shares(chosen.join(label, on=("method", "policy")), names),
    }


def table_rows(accuracy: pl.DataFrame, cost: pl.DataFrame, areas: pl.DataFrame, names: pl.DataFrame) -> list[dict[str, Any]]:
    """One row per curve: a cell per budget, and the area."""
    near = {budget: tied(accuracy.filter(pl.col("budget") == budget)) for budget in BUDGETS}
    area_band = over_seeds(areas, "area").join(names.select("method", "policy", "curve"), on=("method", "policy"))
    covered = dict(areas.group_by("curve").agg(pl.col("covered").min()).iter_rows())
    near_area = tied(area_band.filter(pl.col("curve").is_in([curve for curve, share in covered.items() if share == 1])))
    spent = {(row["curve"], row["budget"]): row["mean"] for row in cost.iter_rows(named=True)}
    cells = {(row["curve"], row["budget"]): row for row in accuracy.iter_rows(named=True)}
    whole = {row["curve"]: row for row in area_band.iter_rows(named=True)}
    return [
        {
            **style,
            "cells": [
                {**cells[style["curve"], b], "cost": spent[style["curve"], b], "best": style["curve"] in near[b]}
                for b in BUDGETS
            ],
            "area": {**whole[style["curve"]], "covered": covered[style["curve"]], "best": style["curve"] in near_area},
        }
        for style in names.iter_rows(named=True)
    ]


def exit_shares(chosen: pl.DataFrame, names: pl.DataFrame) -> list[dict[str, Any]]:
    """Per budget, per curve: the mean over seeds of the shares of test images that leave at each exit."""
    shares = {
        (curve, budget): [sum(exit) / len(exit) for exit in zip(*found, strict=True)]
        for curve, budget, found in chosen.filter(pl.col("exit_share").is_not_null())
        .group_by("curve", "budget", maintain_order=True)
        .agg("exit_share")
        .iter_rows()
    }
    curves = names.iter_rows(named=True)
    styled = list(curves)
    return [
        {"budget": b, "curves": [{**style, "shares": shares.get((style["curve"], b))} for style in styled]} for b in BUDGETS
    ]


def front_table(points: pl.DataFrame) -> pl.DataFrame:
    """The fronts at their test values as a flat table: the list of exit shares becomes columns."""
    table = fronts(points)
    share = pl.col("exit_share").list
    return table.with_columns(
        *(share.get(k, null_on_oob=True).alias(f"exit_share_branch{k + 1}") for k in range(branches(points))),
        share.last().alias("exit_share_backbone"),
    ).drop("exit_share")


def branches(points: pl.DataFrame) -> int:
    """How many branches the deepest cascade has: the shares list one more, the backbone's."""
    return max(len(share) for share in points["exit_share"]) - 1


def tones(number: int) -> list[tuple[str, str]]:
    """Ground and text colours of each branch's share, from light to dark, then the backbone's grey."""
    light, dark = (0xBF, 0xE3, 0xDA), (0x12, 0x5F, 0x5A)
    found = []
    for k in range(number):
        weight = k / max(1, number - 1)
        ground = [round(a + weight * (b - a)) for a, b in zip(light, dark, strict=True)]
        found.append(("#{:02x}{:02x}{:02x}".format(*ground), "#ffffff" if weight > 0.6 else "#10201d"))
    return [*found, ("#c8cdd3", "#1d2127")]
