"""The page that compares heads: accuracy of each branch alone against its head's cost, as a picture and as tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import altair as alt
import polars as pl
import vl_convert

from calex.report import vega
from calex.report.formatting import counted
from calex.report.markdown import table as markdown_table
from calex.report.styles import COLOURS, SHAPES
from calex.report.template import template
from calex.system.replacing import replacing


def write(path: Path, dataset: str, heads: pl.DataFrame, best: pl.DataFrame, command: str, missing: str = "") -> None:
    """Write the page and, beside it, its tables as .md and .csv and its picture as .svg and .png.

    heads: a row for each branch of each head, `steps.heads.SCHEMA`. best: the best of them within each cost, with `within`
    and `level`. missing: what the reader must know is not in them.
    """
    picture = vega.svg(vega.spec([chart(heads)]))
    page = template("heads_page.html").render(
        dataset=dataset, lede=lede(heads, missing), command=command, sections=[section(part) for part in by_backbone(best)],
        spec=vega.spec([chart(heads)], background="transparent"),
        heads=[[cell(name, row[name]) for name in heads.columns] for row in heads.iter_rows(named=True)], columns=heads.columns,
    )  # fmt: skip
    contents = {
        ".csv": heads.write_csv(float_precision=6).encode(),
        ".md": markdown(dataset, heads, best, command, missing).encode(),
        ".svg": picture.encode(),
        ".png": vl_convert.svg_to_png(picture, scale=1.5),
        ".html": page.encode(),
    }
    for suffix, content in contents.items():  # the page last: where it is, the others are
        with replacing(path.with_suffix(suffix)) as partial:
            partial.write_bytes(content)


def lede(heads: pl.DataFrame, missing: str) -> str:
    """Say what was compared."""
    seeds = counted(heads["seeds"].max(), "seed")  # type: ignore[arg-type]
    return (
        f"{counted(heads.select('method', 'variant').n_unique(), 'head')} over the same frozen features, {seeds}. Each branch answers "
        "every image. A head’s cost is its share of the backbone’s FLOPs, with its classifier and without a confidence output. The best head "
        "within a cost is chosen on validation images, its accuracy is that on test images."
        + (f" {missing}" if missing else "")
    )


def by_backbone(rows: pl.DataFrame) -> list[pl.DataFrame]:
    """Split rows by backbone."""
    return rows.partition_by("backbone", maintain_order=True)


def section(best: pl.DataFrame) -> dict[str, Any]:
    """Give a backbone's table: a row for each cost, a column for each branch."""
    branches = best.unique("branch", maintain_order=True).sort("branch")
    title = best["backbone"][0]
    head = [f"within {100 * cost:g} %" for cost in sorted(best["within"].unique())]
    rows = []
    for branch, depth in branches.select("branch", "depth").iter_rows():
        of_branch = {row["within"]: row for row in best.filter(pl.col("branch") == branch).iter_rows(named=True)}
        rows.append([f"branch {branch}, after {100 * depth:.0f} % of the backbone"])
        rows[-1] += [winner(of_branch[cost]) if cost in of_branch else "none fits" for cost in sorted(best["within"].unique())]
    return {"title": title, "head": ["", *head], "rows": rows}


def winner(row: dict[str, Any]) -> str:
    """Write `separable filters=64: 88.1 at 0.42 %`, and which other methods are level with it."""
    level = f"; level: {row['level']}" if row["level"] else ""
    return f"{named(row)}: {100 * row['test_accuracy']:.1f} at {100 * row['cost']:.2f} %{level}"


def named(row: dict[str, Any]) -> str:
    """Write a method with what its variant changes, `separable filters=64`."""
    return row["method"] if row["variant"] == "default" else f"{row['method']} {row['variant']}"


def each_head(heads: pl.DataFrame) -> dict[str, Any]:
    """Give a backbone's table of all heads: a row for each head, a column for each branch."""
    branches = heads.unique("branch").sort("branch")["branch"].to_list()
    rows = []
    for head in heads.sort("method", "cost", "variant").partition_by("method", "variant", maintain_order=True):
        of_branch = {row["branch"]: row for row in head.iter_rows(named=True)}
        rows.append([named(next(iter(of_branch.values())))])
        for branch in branches:
            row = of_branch.get(branch)
            values = None if row is None else (100 * row["test_accuracy"], 100 * row["val_accuracy"], 100 * row["cost"])
            rows[-1].append("" if values is None else "{:.1f} ({:.1f}) at {:.2f} %".format(*values))
    return {"title": heads["backbone"][0], "head": ["", *(f"branch {branch}" for branch in branches)], "rows": rows}


def cell(name: str, value: Any) -> str:
    """Write a value of the table of all heads."""
    if name in ("cost", "depth"):
        return f"{100 * value:.2f} %"
    return f"{100 * value:.1f}" if name.endswith("accuracy") else str(value)


def markdown(dataset: str, heads: pl.DataFrame, best: pl.DataFrame, command: str, missing: str) -> str:
    """Write the tables of the best heads and of all for pages that are written elsewhere."""
    blocks = [
        f"**{dataset}**: {lede(heads, missing)} “Level” are other methods whose difference on test images has a 95 % interval that holds 0."
    ]
    for part in by_backbone(best):
        rows = section(part)
        blocks += [f"{rows['title']}:", markdown_table(rows["head"], rows["rows"])]
    for part in by_backbone(heads):
        rows = each_head(part)
        title = (
            f"Each head on {rows['title']}: accuracy of each branch on test (and validation) images, in percent, at its cost."
        )
        blocks += [title, markdown_table(rows["head"], rows["rows"])]
    return "\n\n".join([*blocks, f"Made by `{command}`."]) + "\n"


def chart(heads: pl.DataFrame) -> alt.FacetChart:
    """Draw accuracy against cost, a colour for each method, a view for each branch."""
    order = heads["method"].unique(maintain_order=True).sort().to_list()
    data = heads.with_columns(
        view=pl.format("{}, branch {}", "backbone", "branch"), cost=100 * pl.col("cost"), accuracy=100 * pl.col("test_accuracy")
    )
    colours = [COLOURS[place % len(COLOURS)] for place in range(len(order))]
    shapes = [SHAPES[place % len(SHAPES)] for place in range(len(order))]
    legend = alt.Legend(title=None)
    base = alt.Chart(data).encode(
        x=alt.X(
            "cost:Q",
            scale=alt.Scale(type="log", nice=False, padding=12),
            axis=alt.Axis(title="head’s FLOPs, % of the backbone’s (logarithmic)", format="~g"),
        ),
        y=alt.Y("accuracy:Q", scale=alt.Scale(zero=False), axis=alt.Axis(title="test accuracy of the branch alone, %")),
        color=alt.Color("method:N", sort=order, scale=alt.Scale(domain=order, range=colours), legend=legend),
    )
    marks = base.mark_point(filled=True, size=70).encode(
        shape=alt.Shape("method:N", sort=order, scale=alt.Scale(domain=order, range=shapes), legend=legend),
        tooltip=["method:N", "variant:N", alt.Tooltip("cost:Q", format=".3g"), alt.Tooltip("accuracy:Q", format=".2f")],
    )
    return (
        marks.properties(width=300, height=260)
        .facet(facet=alt.Facet("view:N", title=None, header=alt.Header(labelFontSize=13)), columns=3)
        .resolve_scale(y="independent")
        .properties(title=alt.TitleParams("What a head’s FLOPs buy"))
    )
