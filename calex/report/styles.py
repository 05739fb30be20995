"""How curves look, the same in the chart and in the tables: colours, shapes and dashes."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from calex.comparison.pareto import area, deployable

# Each has a contrast of at least 3:1 on white and on the page's dark background; shapes tell them apart as well.
COLOURS = (
    *("#d9600f", "#2f78d0", "#16936b", "#c257a0", "#8467d7", "#a8801a", "#1a92a8", "#a3664a", "#d04848"),
    *("#6d8f2a", "#6a7fa8", "#b0608a", "#4f8f8a"),
)
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [1, 4], [8, 3, 2, 3, 2, 3])
GREY = "#7a828c"
# With more methods than this only so many are in colour at first; the rest is grey until it is chosen in the legend.
MAX_HIGHLIGHTED = 5


def curve_styles(points: pl.DataFrame, ours: Sequence[tuple[str, str]] = ()) -> pl.DataFrame:
    """One row for each curve of one dataset: method, policy, curve (its name), ours, colour, shape, dash.

    A method keeps its colour and shape over backbones, a policy its dashes over methods. The policy is part of the
    name, and has dashes, only if some method has several.

    points: table of operating points, `points.SCHEMA`.
    ours: (method, policy) of the curves that the others are compared with; they come first, in this order.
    """
    first_methods, first_policies = [list(dict.fromkeys(names)) for names in zip(*ours, strict=True)] or [[], []]

    def place(name: str, first: list[str]) -> tuple[int, str]:
        return (first.index(name) if name in first else len(first), name)

    curves = deployable(points).select("method", "policy").unique()
    curves = pl.DataFrame(
        sorted(
            curves.rows(),
            key=lambda curve: (place(curve[0], first_methods), curve not in ours, place(curve[1], first_policies)),
        ),
        schema=curves.schema,
        orient="row",
    )
    several = curves["method"].is_duplicated().any()
    rank = {method: i for i, method in enumerate(curves["method"].unique(maintain_order=True))}
    policies = sorted(set(curves["policy"]), key=lambda policy: place(policy, first_policies))
    dash = [policies.index(policy) if several else 0 for policy in curves["policy"]]
    return curves.with_columns(
        curve=pl.format("{} · {}", "method", "policy") if several else pl.col("method"),
        ours=pl.Series([curve in ours for curve in curves.rows()], dtype=pl.Boolean),
        colour=pl.Series([COLOURS[rank[method] % len(COLOURS)] for method in curves["method"]], dtype=pl.String),
        shape=pl.Series([SHAPES[rank[method] % len(SHAPES)] for method in curves["method"]], dtype=pl.String),
        dash=pl.Series(dash, dtype=pl.Int64),
    )


def highlighted(points: pl.DataFrame, styles: pl.DataFrame) -> list[str]:
    """Return the methods that are in colour at first; an empty list if all of them are.

    All if they are few; else ours (or the first of `styles`) and those with the largest areas over budgets, a whole
    area before a partial one.
    """
    order = styles["method"].unique(maintain_order=True).to_list()
    if len(order) <= MAX_HIGHLIGHTED:
        return []
    best = (
        area(points)
        .group_by("method", "policy")
        .agg(pl.col("covered").min(), pl.col("area").mean())
        .sort("covered", "area", "method", descending=[True, True, False], nulls_last=True)["method"]
        .unique(maintain_order=True)
    )
    first = styles.filter("ours")["method"].unique(maintain_order=True).to_list() or order[:1]
    return [*first, *(method for method in best if method not in first)][: max(MAX_HIGHLIGHTED, len(first))]


def exit_colours(branches: int) -> list[tuple[str, str]]:
    """Background and text colour of each branch's share, from light to dark, then of the backbone's, grey."""
    light, dark = (0xBF, 0xE3, 0xDA), (0x12, 0x5F, 0x5A)
    colours = []
    for k in range(branches):
        weight = k / max(1, branches - 1)
        background = [round(a + weight * (b - a)) for a, b in zip(light, dark, strict=True)]
        colours.append(("#{:02x}{:02x}{:02x}".format(*background), "#ffffff" if weight > 0.6 else "#10201d"))
    return [*colours, ("#c8cdd3", "#1d2127")]
