"""The chart of a report: test accuracy against cost, a line and a band per method, over the whole range.

The upper view is what one reads, the lower one always shows everything; the frame in the lower one says
(and, in a browser, changes) what the upper one shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np
import polars as pl

from calex.headline import percent
from calex.pareto import BUDGETS, area, curve_on_grid, fronts, over_seeds

# Each has a contrast of at least 3:1 on white and on the page's dark ground; shapes tell them apart as well.
COLOURS = (
    *("#d9600f", "#2f78d0", "#16936b", "#c257a0", "#8467d7", "#a8801a", "#1a92a8", "#a3664a", "#d04848"),
    *("#6d8f2a", "#6a7fa8", "#b0608a", "#4f8f8a"),
)
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES: tuple[list[int], ...] = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4], [1, 4], [8, 3, 2, 3, 2, 3])
GREY = "#7a828c"
# More methods than this are not all in colour at first: that many, and the rest in grey until they are chosen.
MOST_METHODS = 5
# A browser draws a few thousand marks at ease. Lines and points share this many rows.
MOST_ROWS = 4500

MARK_TOOLTIP = {
    "method:N": "method",
    "variant:N": "variant",
    "policy:N": "policy",
    "seed:N": "seed",
    "parameters:N": "parameters",
    "accuracy:Q": "test accuracy",
    "flops_fraction:Q": "test cost",
    "val_accuracy:Q": "val accuracy",
    "val_flops_fraction:Q": "val cost",
    "exits:N": "exits",
}
ORACLE_TOOLTIP = {
    "method:N": "oracle of",
    "variant:N": "variant",
    "accuracy:Q": "test accuracy, mean over seeds",
    "flops_fraction:Q": "test cost, mean over seeds",
}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


def styles(points: pl.DataFrame, ours: Sequence[tuple[str, str]] = ()) -> pl.DataFrame:
    """One row per drawn curve of one data set: method, policy, curve (its name), ours, colour, shape, dash.

    A method keeps its colour and shape over backbones, a policy its dashes over methods. The policy is part of
    the name, and has dashes, only if some method has several. `ours`, method and policy of the curves that the others
    are compared with, come first, in that order.
    """
    leading = [list(dict.fromkeys(names)) for names in zip(*ours, strict=True)] or [[], []]

    def place(name: str, first: list[str]) -> tuple[int, str]:
        return (first.index(name) if name in first else len(first), name)

    pairs = real(points).select("method", "policy").unique()
    pairs = pl.DataFrame(
        sorted(pairs.rows(), key=lambda pair: (place(pair[0], leading[0]), pair not in ours, place(pair[1], leading[1]))),
        schema=pairs.schema,
        orient="row",
    )
    several = pairs["method"].is_duplicated().any()
    order = {method: i for i, method in enumerate(pairs["method"].unique(maintain_order=True))}
    policies = sorted(set(pairs["policy"]), key=lambda policy: place(policy, leading[1]))
    rank = [policies.index(policy) if several else 0 for policy in pairs["policy"]]
    return pairs.with_columns(
        curve=pl.format("{} · {}", "method", "policy") if several else pl.col("method"),
        ours=pl.Series([pair in ours for pair in pairs.rows()], dtype=pl.Boolean),
        colour=pl.col("method").replace_strict(
            {m: COLOURS[i % len(COLOURS)] for m, i in order.items()}, return_dtype=pl.String
        ),
        shape=pl.col("method").replace_strict({m: SHAPES[i % len(SHAPES)] for m, i in order.items()}, return_dtype=pl.String),
        dash=pl.Series(rank, dtype=pl.Int64),
    )


def real(points: pl.DataFrame) -> pl.DataFrame:
    """The rows of methods that one could deploy: neither the backbone nor an oracle."""
    return points.filter((pl.col("method") != "backbone") & (pl.col("policy") != "oracle"))


def lines(points: pl.DataFrame, names: pl.DataFrame, most_rows: int = MOST_ROWS // 2) -> pl.DataFrame:
    """Mean and range over seeds of each curve on a fine grid of budgets: curve, budget, mean, low, high.

    Only budgets at which every seed has a point: else the mean would jump where a seed begins. Of a stretch
    without change only the ends are kept, which a step line draws alike.
    """
    cost = points.filter(pl.col("split") == "val")["flops_fraction"]
    per_curve = max(20, most_rows // len(names))
    least, most = float(cost.to_numpy().min()), float(cost.to_numpy().max())
    step = math.ceil(200 * max(most - least, 0.005) / per_curve) / 200
    grid = np.arange(math.floor(least / step), math.ceil(most / step) + 1) * step
    band = over_seeds(curve_on_grid(points, np.round(grid, 6).tolist()), "test_accuracy")
    shown = band.filter(pl.col("seeds") == pl.col("of")).join(
        names.select("method", "policy", "curve"), on=("method", "policy")
    )
    value = pl.struct("mean", "low", "high")
    return (
        shown.sort("curve", "budget")
        .filter(
            ((value != value.shift(1)) | (value != value.shift(-1))).over("curve").fill_null(True)
            | pl.col("budget").is_first_distinct().over("curve")
        )
        .select("curve", "method", "policy", "budget", "mean", "low", "high")
    )


def front_points(points: pl.DataFrame, names: pl.DataFrame, most_rows: int) -> pl.DataFrame:
    """The fronts' points at their test values, with what a tooltip says.

    Of points that fall on one another the first is kept; if there are still too many, they are thinned evenly.
    """
    shown = fronts(points).join(names.select("method", "policy", "curve"), on=("method", "policy"))
    place = ["curve", "seed", "variant", "accuracy", "flops_fraction", "val_accuracy", "val_flops_fraction"]
    shown = shown.unique(place, keep="first", maintain_order=True)
    if len(shown) > most_rows:
        shown = shown[np.unique(np.linspace(0, len(shown) - 1, most_rows).round().astype(int))]
    return shown.select(
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
        exits=pl.Series([exits(share) for share in shown["exit_share"]], dtype=pl.String),
    ).sort("curve", "flops_fraction")


def exits(share: list[float]) -> str:
    """`branch 1 40% · branch 2 35% · backbone 25%`"""
    branches = [f"branch {k} {percent(s)}" for k, s in enumerate(share[:-1], start=1)]
    return " · ".join([*branches, f"backbone {percent(share[-1])}"])


def oracles(points: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """One row per method: its oracle, the mean over seeds of the variant whose oracle is best on validation."""
    rows = points.filter((pl.col("policy") == "oracle") & pl.col("method").is_in(names["method"].to_list()))
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
        .join(names.unique("method", keep="first", maintain_order=True).select("method", "policy", "curve"), on="method")
        .select("curve", "method", "policy", "variant", "accuracy", "flops_fraction")
        .sort("curve")
    )


def focus(curves: pl.DataFrame, around: list[float]) -> tuple[float, float]:
    """The accuracies worth a close look: from where the curves are at the least budget of the tables, up to the best.

    A curve counts there or, if it starts later, where it starts. The lowest quarter of the curves does not set
    the view: one failed method must not flatten the others into a line. All of `around` is in it.
    """
    at = pl.col("low").filter(pl.col("budget") <= min(BUDGETS)).last()
    starts = curves.sort("budget").group_by("curve").agg(pl.coalesce(at, pl.col("low").first()), top=pl.col("high").max())
    top = max([*starts["top"], *around], default=1.0)
    usual = starts["low"].quantile(0.25, interpolation="lower")
    bottom = min([*([] if usual is None else [usual]), *around, top - 0.02])
    margin = 0.06 * (top - bottom)
    return max(0.0, bottom - margin), top + 1.5 * margin


@dataclass(frozen=True)
class Shown:
    """What a chart draws: lines with bands, marks, oracles, the backbone; and within which limits."""

    curves: pl.DataFrame
    marks: pl.DataFrame
    oracles: pl.DataFrame
    backbone: pl.DataFrame

    @property
    def costs(self) -> list[float]:
        """The limits of the horizontal axis: everything, rounded outwards."""
        found = [
            *self.curves["budget"],
            *(cost for f in (self.marks, self.oracles, self.backbone) for cost in f["flops_fraction"]),
        ]
        return [math.floor(20 * min(found) - 0.2) / 20, math.ceil(50 * max(found) + 0.5) / 50]

    @property
    def accuracies(self) -> tuple[list[float], list[float]]:
        """The limits of the vertical axis: for a close look (see `focus`), and for the whole."""
        low, high = focus(self.curves, [*self.backbone["accuracy"]])
        with_oracles = focus(self.curves, [*self.backbone["accuracy"], *self.oracles["accuracy"]])
        # Oracles far above everything would leave the curves the foot of the view: then they are seen in the whole.
        if with_oracles[1] - high <= 0.5 * (high - low):
            low, high = with_oracles
        top = max(high, with_oracles[1])
        bottom = min([low, *self.curves["low"], *self.marks["accuracy"]])
        bottom -= 0.04 * (top - bottom)
        if top - bottom <= 1.6 * (high - low):  # a look that is hardly closer is none
            low, high = bottom, top
        return [low, high], [bottom, top]


def collect(points: pl.DataFrame, names: pl.DataFrame) -> Shown:
    """What is to be drawn of one backbone's points, in at most `MOST_ROWS` lines and marks."""
    methods = real(points)
    curves = lines(methods, names)
    backbone = points.filter((pl.col("method") == "backbone") & (pl.col("split") == "test"))
    label = pl.Series([f"backbone alone {percent(accuracy, 1)}" for accuracy in backbone["accuracy"]], dtype=pl.String)
    return Shown(
        curves=curves,
        marks=front_points(methods, names, MOST_ROWS - len(curves)),
        oracles=oracles(points, names),
        backbone=backbone.select("accuracy", "flops_fraction", label=label),
    )


def chart(
    points: pl.DataFrame, names: pl.DataFrame, title: Sequence[str] = (), place: int = 0, width: int = 760
) -> alt.VConcatChart:
    """The two views of one backbone's points. `names`: see `styles`, of all backbones together.

    `title`: a title and the lines under it, for a picture that travels without its page. `place`: the chart's
    number among those that `spec` is to join.
    """
    names = names.join(real(points), on=("method", "policy"), how="semi", maintain_order="left")
    shown = collect(points, names)
    near, _ = shown.accuracies
    frame = alt.selection_interval(
        name=f"frame_{place}",
        encodings=["x", "y"],
        value={"x": shown.costs, "y": near},
        mark=alt.BrushConfig(fill=GREY, fillOpacity=0.14, stroke=GREY, strokeOpacity=0.9),
    )
    look = Look(names, in_colour(real(points), names), place)
    upper = upper_view(shown, look, frame).properties(width=width, height=round(0.56 * width))
    lower = lower_view(shown, look).add_params(frame).properties(width=width, height=90)
    views = alt.vconcat(upper, lower, spacing=14).resolve_legend(color="shared", shape="shared", strokeDash="shared")
    return views.properties(title=alt.TitleParams(title[0], subtitle=list(title[1:]))) if title else views


def upper_view(shown: Shown, look: Look, frame: alt.Parameter) -> alt.LayerChart | alt.FacetChart:
    """The close look, at what `frame` covers in the lower view."""
    x_axis = alt.Axis(format="%", title="FLOPs per image, as a share of the backbone’s", grid=False, tickCount=8)
    y_axis = vertical_axis("Test accuracy", ticks=7)

    def x(field: str) -> alt.X:
        return alt.X(
            f"{field}:Q", axis=x_axis, scale=alt.Scale(domain={"param": frame.name, "encoding": "x"}, zero=False, nice=False)
        )

    def y(field: str) -> alt.Y:
        return alt.Y(
            f"{field}:Q", axis=y_axis, scale=alt.Scale(domain={"param": frame.name, "encoding": "y"}, zero=False, nice=False)
        )

    curves, marks, best, backbone = (alt.Chart(data) for data in (shown.curves, shown.marks, shown.oracles, shown.backbone))
    highest = alt.Chart(shown.oracles.filter(pl.col("accuracy") <= shown.accuracies[0][1]).sort("accuracy")[-1:])
    spot = (x("flops_fraction"), y("accuracy"))
    return alt.layer(
        backbone.mark_rule(stroke=GREY, strokeDash=[4, 4], clip=True).encode(y("accuracy")),
        curves.mark_area(interpolate="step-after", clip=True, opacity=1).encode(
            x("budget"), y("low"), alt.Y2("high"), look.detail, color=look.colour, fillOpacity=look.opacity(look.band, 0)
        ),
        # The legend answers to a selection only if it is declared where the legend's own field is drawn.
        curves.mark_line(interpolate="step-after", strokeWidth=2, clip=True)
        .encode(x("budget"), y("mean"), *look.dash, look.detail, color=look.colour, strokeOpacity=look.opacity(1, 0.28))
        .add_params(*look.chosen),
        marks.mark_point(filled=True, size=look.size, clip=True, aria=False, opacity=1).encode(
            *spot, look.shape, color=look.colour, fillOpacity=look.opacity(look.mark, 0), tooltip=tooltip(MARK_TOOLTIP)
        ),
        best.mark_point(shape="diamond", filled=False, size=130, strokeWidth=2, clip=True, opacity=1).encode(
            *spot, color=look.colour, strokeOpacity=look.opacity(1, 0.2), tooltip=tooltip(ORACLE_TOOLTIP)
        ),
        # One name for all diamonds, above the highest: the rest follows from the shape.
        highest.mark_text(text="oracle", align="left", dx=-6, dy=-13, fill=GREY, clip=True).encode(*spot),
        backbone.mark_point(filled=True, shape="circle", size=70, fill=GREY, stroke=GREY, clip=True).encode(*spot),
        # At the dear end and well under its point: there the curves are close to the line, and oracles above it.
        backbone.mark_text(align="right", dx=6, dy=26, fill=GREY, clip=True).encode(*spot, alt.Text("label:N")),
    )


def lower_view(shown: Shown, look: Look) -> alt.LayerChart | alt.FacetChart:
    """Everything, small."""
    _, whole = shown.accuracies
    x_axis = alt.Axis(format="%", title=None, grid=False, tickCount=8)
    y_axis = vertical_axis("Whole range", ticks=3, grid=False)
    x_scale, y_scale = alt.Scale(domain=shown.costs, nice=False), alt.Scale(domain=whole, nice=False)
    spot = (alt.X("flops_fraction:Q", axis=x_axis, scale=x_scale), alt.Y("accuracy:Q", axis=y_axis, scale=y_scale))
    best, backbone = alt.Chart(shown.oracles), alt.Chart(shown.backbone)
    hidden = alt.Chart(shown.oracles.filter(pl.col("accuracy") > shown.accuracies[0][1]).sort("flops_fraction")[-1:])
    return alt.layer(
        alt.Chart(shown.curves)
        .mark_line(interpolate="step-after", strokeWidth=1.2)
        .encode(
            alt.X("budget:Q", axis=x_axis, scale=x_scale),
            alt.Y("mean:Q", axis=y_axis, scale=y_scale),
            *look.dash,
            look.detail,
            color=look.colour,
            strokeOpacity=look.opacity(1, 0.28),
        ),
        backbone.mark_rule(stroke=GREY, strokeDash=[4, 4]).encode(spot[1]),
        backbone.mark_point(filled=True, shape="circle", size=30, fill=GREY, stroke=GREY).encode(*spot),
        best.mark_point(shape="diamond", filled=False, size=36, strokeWidth=1.2).encode(*spot, color=look.colour),
        hidden.mark_text(text="oracle", align="left", dx=9, dy=1, fill=GREY, fontSize=10).encode(*spot),
    )


def vertical_axis(title: str, ticks: int, grid: bool = True) -> alt.Axis:
    """An axis of accuracies. Its width is fixed, so that both views stand exactly under one another."""
    return alt.Axis(format="~%", title=title, tickCount=ticks, grid=grid, minExtent=46, maxExtent=46)


def tooltip(rows: dict[str, str]) -> list[alt.Tooltip]:
    """Field names to titles; a field of type Q is a share and told in percent."""
    return [
        alt.Tooltip(field, title=title, format=".1%") if field.endswith(":Q") else alt.Tooltip(field, title=title)
        for field, title in rows.items()
    ]


def legend_columns(names: pl.DataFrame, width: int = 760) -> int:
    """How many names of methods stand beside one another in a legend of a chart of this width, in pixels."""
    return max(1, width // (44 + 8 * max(map(len, names["method"]))))


def spec(
    charts: Sequence[alt.VConcatChart | alt.LayerChart | alt.FacetChart], background: str = "white", columns: int = 4
) -> dict[str, Any]:
    """The charts under one another as one Vega-Lite spec, with so many columns in their legends."""
    page = (
        charts[0]
        if len(charts) == 1
        else alt.vconcat(*charts, spacing=40).resolve_scale(color="independent", shape="independent", strokeDash="independent")
    )
    return named(
        page.configure(
            background=background,
            padding=4 if background == "transparent" else 20,
            font=FONT,
            view=alt.ViewConfig(stroke=None),
            axis=alt.AxisConfig(
                labelColor="#565e68",
                titleColor="#1d2127",
                domainColor="#aab1ba",
                tickColor="#aab1ba",
                gridColor="#e7eaee",
                labelFontSize=12,
                titleFontSize=12.5,
                titleFontWeight="normal",
                titlePadding=8,
            ),
            legend=alt.LegendConfig(
                labelFontSize=13, labelColor="#1d2127", symbolSize=90, columnPadding=18, orient="top", columns=columns
            ),
            text=alt.MarkConfig(fontSize=12),
            title=alt.TitleConfig(
                anchor="start",
                fontSize=15,
                fontWeight="bold",
                color="#1d2127",
                offset=14,
                subtitleColor="#565e68",
                subtitleFontSize=12.5,
                subtitlePadding=5,
            ),
        ).to_dict()
    )


def in_colour(methods: pl.DataFrame, names: pl.DataFrame) -> list[str]:
    """The methods that are in colour at first: all if they are few, else ours (or the first of `names`) and those with
    the largest areas over budgets (a whole area before a partial one)."""
    order = names["method"].unique(maintain_order=True).to_list()
    if len(order) <= MOST_METHODS:
        return []
    best = (
        area(methods)
        .group_by("method", "policy")
        .agg(pl.col("covered").min(), pl.col("area").mean())
        .sort("covered", "area", "method", descending=[True, True, False], nulls_last=True)["method"]
        .unique(maintain_order=True)
    )
    first = names.filter("ours")["method"].unique(maintain_order=True).to_list() or order[:1]
    return [*first, *(method for method in best if method not in first)][: max(MOST_METHODS, len(first))]


class Look:
    """The encodings that all layers share, so that they merge into one legend: a colour and a shape for each method,
    dashes for each policy. What is not chosen in the legend is grey."""

    def __init__(self, names: pl.DataFrame, coloured: list[str], place: int) -> None:
        methods, policies = names.unique("method", maintain_order=True), names.unique("policy", maintain_order=True)
        order = methods["method"].to_list()
        legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolStrokeWidth=2, labelLimit=280)
        initial = [{"method": method} for method in coloured] or alt.Undefined
        method = alt.selection_point(name=f"method_{place}", fields=["method"], bind="legend", toggle="true", value=initial)
        policy = alt.selection_point(name=f"policy_{place}", fields=["policy"], bind="legend", toggle="true")
        several = names["method"].is_duplicated().any()
        self.chosen = [method, policy] if several else [method]
        self.both = method & policy if several else method
        # With many curves the lines must speak and the rest stand back.
        self.band, self.mark, self.size = (0.06, 0.3, 14) if len(names) > 4 else (0.16, 0.55, 26)
        colour = alt.Color(
            "method:N", sort=order, scale=alt.Scale(domain=order, range=methods["colour"].to_list()), legend=legend
        )
        self.colour = alt.condition(self.both, colour, alt.value(GREY))
        self.shape = alt.Shape(
            "method:N", sort=order, scale=alt.Scale(domain=order, range=methods["shape"].to_list()), legend=legend
        )
        self.detail = alt.Detail("curve:N")
        dashes = [DASHES[i % len(DASHES)] for i in policies["dash"]]
        told = policies["policy"].to_list()
        below = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=500, offset=8, labelLimit=280)
        dash = alt.StrokeDash("policy:N", sort=told, scale=alt.Scale(domain=told, range=dashes), legend=below)
        self.dash = [dash] if several else []

    def opacity(self, strong: float, faint: float) -> Any:
        """Full strength for what is chosen in the legend; without a choice, for everything.

        It goes to fillOpacity or strokeOpacity: thousands of marks with `opacity` take minutes to become a picture.
        """
        return alt.condition(self.both, alt.value(strong), alt.value(faint))


def named(spec: dict[str, Any]) -> dict[str, Any]:
    """The spec with views named by their place: Altair counts them per process, and equal input must give equal bytes."""
    numbers: dict[str, str] = {}

    def walk(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: rename(value) if key == "name" else walk(value) for key, value in node.items()}
        return [walk(value) for value in node] if isinstance(node, list) else node

    def rename(name: Any) -> Any:
        if isinstance(name, str) and name.startswith("view_"):
            return numbers.setdefault(name, f"view_{len(numbers)}")
        return name

    data = spec.pop("datasets", {})
    renamed: dict[str, Any] = walk(spec)
    for param in renamed.get("params", []):
        if "views" in param:
            param["views"] = [numbers.get(view, view) for view in param["views"]]
    return {**renamed, "datasets": data}
