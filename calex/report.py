"""The report of one data set: a page that stands alone, and the chart and its numbers as files of their own.

Everything is computed from the tables of operating points and of paired differences; a run's description only adds
what was run. Equal input gives equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import vl_convert
import yaml

from calex import paired as pairs
from calex.chart import DASHES, chart, in_colour, legend_columns, real, spec, styles
from calex.errors import CalexError
from calex.files import read_parquet
from calex.headline import against_each, counted, gains, headline, listed, percent, stability, tied
from calex.page import gathered, renumbered, template
from calex.pareto import BUDGETS, POINT, area, at_budgets, curve_on_grid, fronts, over_seeds
from calex.points import MARKED

# Where gains and orders are told: every percent of the backbone's FLOPs.
GRID = tuple(budget / 100 for budget in range(1, 101))
# From this number of test images on, a difference is told to a hundredth of a point.
MANY_IMAGES = 5000


@dataclass(frozen=True)
class Report:
    """The page, the chart as vector and as raster picture, the fronts at their test values, the table in Markdown."""

    html: str
    svg: str
    png: bytes
    csv: str
    md: str


def read_points(path: str | Path) -> pl.DataFrame:
    """The table of operating points, or a `CalexError` that says what is wrong with it."""
    points = read_parquet(path, MARKED)
    check(points, str(path))
    return points


def read_paired(path: str | Path, points: pl.DataFrame) -> pl.DataFrame:
    """The table of paired differences, or a `CalexError` if it is not one of the same data set."""
    paired = read_parquet(path, pairs.SCHEMA, gaps=pairs.GAPS)
    if set(paired["dataset"]) - set(points["dataset"]):
        raise CalexError(f"{path}: is about {listed(sorted(set(paired['dataset'])))}, not {points['dataset'][0]}")
    return paired


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


def _name(row: dict[str, Any]) -> str:
    return f"point {row['point']} of {row['backbone']}/{row['method']}/{row['variant']}/{row['policy']}/seed{row['seed']}"


def build(points: pl.DataFrame, run: dict[str, Any], paired: pl.DataFrame | None = None) -> Report:
    """The report for a checked table of points. `run` may lack any entry: what it lacks is not shown.

    paired: as `compare` writes it; without it no curve is compared with another image by image.
    """
    found = sections(points, run, paired)
    svg = picture(points, paired)
    return Report(
        html=page(points, run, paired, found),
        svg=svg,
        png=vl_convert.svg_to_png(svg, scale=2),
        csv=front_table(points).write_csv(),
        md=markdown(points["dataset"][0], found, run),
    )


def sections(points: pl.DataFrame, run: dict[str, Any], paired: pl.DataFrame | None) -> list[dict[str, Any]]:
    names = styles(points, ours_of(paired))
    return [section(table, names, run, paired) for table in by_backbone(points)]


def ours_of(paired: pl.DataFrame | None) -> list[tuple[str, str]]:
    """Method and policy of the curves that all others are compared with, in the config's order."""
    if paired is None:
        return []
    return paired.select("ours", "ours_method", "ours_policy").unique().sort("ours").drop("ours").rows()


def page(
    points: pl.DataFrame, run: dict[str, Any], paired: pl.DataFrame | None = None, found: list[dict[str, Any]] | None = None
) -> str:
    """The page as HTML, with everything it needs inside."""
    return template("report.html").render(
        dashes=[" ".join(map(str, dash)) for dash in DASHES],
        interval=interval,
        dataset=points["dataset"][0],
        sections=sections(points, run, paired) if found is None else found,
        tried=tried(points),
        budgets=BUDGETS,
        seeds=real(points)["seed"].unique().sort().to_list(),
        images=dict(points.group_by("split").agg(pl.col("n").max()).iter_rows()),
        tones=tones(branches(points)),
        run=run,
        config=yaml.safe_dump(run["config"], sort_keys=False, allow_unicode=True, width=100) if run.get("config") else "",
    )


def picture(points: pl.DataFrame, paired: pl.DataFrame | None = None) -> str:
    """The charts as one SVG, with the title and the legend that they need away from the page."""
    names = styles(points, ours_of(paired))
    seeds = real(points)["seed"].n_unique()
    lines_under = [
        f"Line: mean over {counted(seeds, 'seed')} of the branches, band: their range (minimum to maximum).",
        "Marks: operating points chosen on validation images, drawn at their test values.",
    ]
    charts = [
        chart(table, names, [f"Early exits on {table['dataset'][0]}: {table['backbone'][0]}", *lines_under], place)
        for place, table in enumerate(by_backbone(points))
    ]
    return renumbered(gathered(vl_convert.vegalite_to_svg(spec(charts, columns=legend_columns(names)))))


def by_backbone(points: pl.DataFrame) -> list[pl.DataFrame]:
    return points.sort("backbone", maintain_order=True).partition_by("backbone", maintain_order=True)


def section(points: pl.DataFrame, names: pl.DataFrame, run: dict[str, Any], paired: pl.DataFrame | None) -> dict[str, Any]:
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
    curve_of = dict(zip(label.select("method", "policy").rows(), label["curve"], strict=True))
    here = pl.DataFrame(schema=pairs.SCHEMA) if paired is None else paired.filter(pl.col("backbone") == backbone)
    others = {
        curve_of[one]: here.filter(ours_method=one[0], ours_policy=one[1]).join(label, on=("method", "policy"))
        for one in ours_of(here)
        if one in curve_of
    }
    ours = next(iter(others), None)
    grid = curve_on_grid(methods, GRID).join(label, on=("method", "policy"))
    return {
        "backbone": backbone,
        "about": run.get("backbones", {}).get(backbone, {}),
        "fingerprint": run.get("fingerprints", {}).get("backbones", {}).get(backbone),
        "alone": alone,
        "headline": headline(accuracy, alone),
        "spec": spec([chart(points, names)], background="transparent"),
        "has_oracle": bool((points["policy"] == "oracle").any()),
        "rows": table_rows(accuracy, cost, areas.join(label, on=("method", "policy")), names, others.get(ours)),
        "ours": ours,
        "claims": {one: claims(compared, grid, one, names) for one, compared in others.items()},
        "coloured": in_colour(methods, names),
        "longest": max(map(len, names["method"])),
        "shares": exit_shares(chosen.join(label, on=("method", "policy")), names),
    }


def claims(paired: pl.DataFrame, grid: pl.DataFrame, ours: str, names: pl.DataFrame) -> dict[str, list[str]]:
    """What the comparison with one of ours says in words of the paper's claims: it matches or exceeds the others (a),
    most at FLOPs reductions of 30–70 % (b), whatever the seed (c).

    The others are the curves of other methods: ours are not their own rivals, unless there is nobody else.
    """
    mine = names.filter(pl.col("method").is_in(names.filter("ours")["method"].to_list()))["curve"].to_list()
    rivals = ~pl.col("curve").is_in(mine)
    left_out = 0 < len(paired.filter(rivals)) < len(paired)
    if left_out:
        paired, grid = paired.filter(rivals), grid.filter(rivals | (pl.col("curve") == ours))
    return {"against": against_each(paired, ours, left_out), "gains": gains(grid, ours), "stability": stability(grid, ours)}


def tried(points: pl.DataFrame) -> list[dict[str, Any]]:
    """How many settings of each method a curve could choose among on validation: whoever tried more flatters himself.

    A setting is a variant with a policy; those whose validation rows are the very same count once. `points`: the
    operating points that were swept with one seed, over all settings and on one backbone.
    """
    swept = real(points).filter(pl.col("split") == "val").sort(*POINT)
    found = []
    for (method,), rows in swept.group_by("method", maintain_order=True):
        measured = {
            tuple(each.select("backbone", "seed", "accuracy", "flops_fraction").rows())
            for _, each in rows.group_by("variant", "policy")
        }
        found.append(
            {
                "method": method,
                "settings": len(measured),
                "variants": rows["variant"].n_unique(),
                "policies": rows["policy"].n_unique(),
                "points": rows.group_by("backbone", "seed").len()["len"].max(),
            }
        )
    return found


def table_rows(
    accuracy: pl.DataFrame,
    cost: pl.DataFrame,
    areas: pl.DataFrame,
    names: pl.DataFrame,
    paired: pl.DataFrame | None,
) -> list[dict[str, Any]]:
    """One row per curve: a cell per budget with its difference to ours, and the area."""
    compared = {} if paired is None else {(row["curve"], row["budget"]): row for row in paired.iter_rows(named=True)}
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
                {
                    **cells[style["curve"], b],
                    "cost": spent[style["curve"], b],
                    "best": style["curve"] in near[b],
                    "paired": compared.get((style["curve"], b)),
                }
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


def markdown(dataset: str, found: list[dict[str, Any]], run: dict[str, Any]) -> str:
    """The table of accuracies within budgets and what it says, for pages that are not written here."""
    lines = []
    for section in found:
        ours, rows = section["ours"], section["rows"]
        alone = f" The backbone alone: {100 * section['alone']:.1f}." if section["alone"] is not None else ""
        lines += [
            f"**{dataset}, {section['backbone']}**: test accuracy in percent within a budget of FLOPs, mean over seeds "
            f"[minimum–maximum].{alone}"
            + (f" Second line: the difference to {ours} on the same images, in points [95% interval]." if ours else ""),
            "",
            "| | " + " | ".join(percent(budget) for budget in BUDGETS) + " | area, 30–70% saved |",
            "|---" * (len(BUDGETS) + 2) + "|",
        ]
        for row in rows:
            cells = [in_markdown(cell) + beside(cell["paired"]) for cell in row["cells"]]
            area_cell = in_markdown(row["area"]) + (" (partial)" if row["area"]["seeds"] and row["area"]["covered"] < 1 else "")
            lines.append(f"| {row['curve'].replace('|', chr(92) + '|')} | {' | '.join([*cells, area_cell])} |")
        lines.append("")
        for curve, said in section["claims"].items():
            lines += [
                f"What the comparison says of {curve}:",
                "",
                f"- Does it match or exceed the others? {' '.join(said['against'])}",
                *(f"- Are its gains largest at FLOPs reductions of 30–70%? {claim}" for claim in said["gains"]),
                *(f"- Do seeds agree? {claim}" for claim in said["stability"]),
                "",
            ]
    return "\n".join([*lines, *made(run)]).rstrip("\n") + "\n"


def made(run: dict[str, Any]) -> list[str]:
    """On what, with what and how the numbers came about."""
    images = [f"{number:,} {split}" for split, number in run.get("splits", {}).items()]
    said = [f"{listed(images)} images"] if images else []
    if seeds := run.get("seeds"):
        said.append(f"seed{'s' * (len(seeds) > 1)} {listed(map(str, seeds))}")
    said += [kind for kind in run.get("hardware", {}).values() if kind]
    said.append(", ".join(f"{name} {version}" for name, version in sorted(run.get("versions", {}).items())))
    about = "; ".join(part for part in said if part)
    command = f"Made by `{run['command']}`." if run.get("command") else ""
    return [line for line in (f"{about}." if about else "", command) if line]


def in_markdown(cell: dict[str, Any]) -> str:
    if not cell["seeds"]:
        return "no point fits"
    spread = f" [{100 * cell['low']:.1f}–{100 * cell['high']:.1f}]" if cell["of"] > 1 else ""
    few = f", {cell['seeds']} of {cell['of']} seeds" if cell["seeds"] < cell["of"] else ""
    return f"{100 * cell['mean']:.1f}{spread}{few}"


def beside(paired: dict[str, Any] | None) -> str:
    return f"<br>{interval(paired)}" if paired is not None and paired["difference"] is not None else ""


def interval(paired: dict[str, Any]) -> str:
    """`−0.4 [−0.9, +0.1]`: a difference and its interval in points."""
    low, high = (signed(paired[end], paired["n"]) for end in ("low", "high"))
    return f"{signed(paired['difference'], paired['n'])} [{low}, {high}]"


def signed(share: float, images: int) -> str:
    """In points with a sign; what rounds to nothing has none."""
    text = f"{100 * share:+.{2 if images >= MANY_IMAGES else 1}f}"
    return text.replace("-", "−") if float(text) else text[1:]
