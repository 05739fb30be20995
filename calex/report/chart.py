"""The chart of a report: test accuracy against cost, a line and a band for each curve, over the whole range.

The upper view is what one reads, the lower one always shows everything; the frame in the lower one shows (and, in a
browser, changes) what the upper one covers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import polars as pl

from calex.comparison.pareto import by_backbone, deployable
from calex.report.chart_data import ChartData, chart_data
from calex.report.formatting import counted
from calex.report.styles import DASHES, GREY, highlighted
from calex.report.vega import spec, svg

FRONT_TOOLTIP = {
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


class Encodings:
    """The encodings that all layers share, so that they merge into one legend.

    A colour and a shape for each method, dashes for each policy. What is not chosen in the legend is grey.
    """

    def __init__(self, styles: pl.DataFrame, highlighted: list[str], place: int) -> None:
        """styles: see `styles.curve_styles`; highlighted: the methods in colour at first, none for all."""
        methods, policies = styles.unique("method", maintain_order=True), styles.unique("policy", maintain_order=True)
        order = methods["method"].to_list()
        legend = alt.Legend(title=None, orient="top", symbolOpacity=1, symbolStrokeWidth=2, labelLimit=280)
        initial = [{"method": method} for method in highlighted] or alt.Undefined
        method = alt.selection_point(name=f"method_{place}", fields=["method"], bind="legend", toggle="true", value=initial)
        policy = alt.selection_point(name=f"policy_{place}", fields=["policy"], bind="legend", toggle="true")
        several = styles["method"].is_duplicated().any()
        self.chosen = [method, policy] if several else [method]
        self.both = method & policy if several else method
        # With many curves the lines matter and the rest is drawn faintly.
        self.band, self.mark, self.size = (0.06, 0.3, 14) if len(styles) > 4 else (0.16, 0.55, 26)
        colour = alt.Color(
            "method:N", sort=order, scale=alt.Scale(domain=order, range=methods["colour"].to_list()), legend=legend
        )
        self.colour = alt.condition(self.both, colour, alt.value(GREY))
        self.shape = alt.Shape(
            "method:N", sort=order, scale=alt.Scale(domain=order, range=methods["shape"].to_list()), legend=legend
        )
        self.detail = alt.Detail("curve:N")
        dashes = [DASHES[i % len(DASHES)] for i in policies["dash"]]
        policy_order = policies["policy"].to_list()
        below = alt.Legend(title=None, orient="bottom", symbolType="stroke", symbolSize=500, offset=8, labelLimit=280)
        dash = alt.StrokeDash("policy:N", sort=policy_order, scale=alt.Scale(domain=policy_order, range=dashes), legend=below)
        self.dash = [dash] if several else []

    def opacity(self, strong: float, faint: float) -> Any:
        """Full strength for what is chosen in the legend; without a choice, for everything.

        It goes to fillOpacity or strokeOpacity: thousands of marks with `opacity` take minutes to become a picture.
        """
        return alt.condition(self.both, alt.value(strong), alt.value(faint))


def chart(
    points: pl.DataFrame, styles: pl.DataFrame, title: Sequence[str] = (), place: int = 0, width: int = 760
) -> alt.VConcatChart:
    """Draw the two views of one backbone's points.

    styles: see `styles.curve_styles`, of all backbones together.
    title: a title and the lines under it, for a picture that is shown without its page.
    place: the chart's number among those that `vega.spec` is to join.
    width: in pixels.
    """
    styles = styles.join(deployable(points), on=("method", "policy"), how="semi", maintain_order="left")
    data = chart_data(points, styles)
    near, _ = data.accuracies
    frame = alt.selection_interval(
        name=f"frame_{place}",
        encodings=["x", "y"],
        value={"x": data.costs, "y": near},
        mark=alt.BrushConfig(fill=GREY, fillOpacity=0.14, stroke=GREY, strokeOpacity=0.9),
    )
    encodings = Encodings(styles, highlighted(deployable(points), styles), place)
    upper = upper_view(data, encodings, frame, styles["method"][0]).properties(width=width, height=round(0.56 * width))
    lower = lower_view(data, encodings).add_params(frame).properties(width=width, height=90)
    views = alt.vconcat(upper, lower, spacing=14).resolve_legend(color="shared", shape="shared", strokeDash="shared")
    return views.properties(title=alt.TitleParams(title[0], subtitle=list(title[1:]))) if title else views


def upper_view(data: ChartData, encodings: Encodings, frame: alt.Parameter, first: str) -> alt.LayerChart | alt.FacetChart:
    """Draw the close view, of what `frame` covers in the lower view. first: the method whose ceiling bears the name of all."""
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

    curves, front, oracles, backbone = (alt.Chart(frame) for frame in (data.curves, data.front, data.oracles, data.backbone))
    highest = alt.Chart(data.oracles.filter(pl.col("accuracy") <= data.accuracies[0][1]).sort("accuracy")[-1:])
    spot = (x("flops_fraction"), y("accuracy"))
    return alt.layer(
        backbone.mark_rule(stroke=GREY, strokeDash=[4, 4], clip=True).encode(y("accuracy")),
        curves.mark_area(interpolate="step-after", clip=True, opacity=1).encode(
            x("budget"),
            y("low"),
            alt.Y2("high"),
            encodings.detail,
            color=encodings.colour,
            fillOpacity=encodings.opacity(encodings.band, 0),
        ),
        # The legend answers to a selection only if it is declared where the legend's own field is drawn.
        curves.mark_line(interpolate="step-after", strokeWidth=2, clip=True)
        .encode(
            x("budget"),
            y("mean"),
            *encodings.dash,
            encodings.detail,
            color=encodings.colour,
            strokeOpacity=encodings.opacity(1, 0.28),
        )
        .add_params(*encodings.chosen),
        *[
            alt.Chart(ceilings)
            .mark_line(interpolate="step-after", strokeWidth=1.2, strokeDash=[1, 3], clip=True)
            .encode(x("budget"), y("mean"), encodings.detail, color=encodings.colour, strokeOpacity=encodings.opacity(0.9, 0))
            for ceilings in [data.ceilings]
            if len(ceilings)  # a layer without data has an infinite extent, of which Vega complains
        ],
        # One name for all dotted lines, where that of the first method leaves the view or ends.
        *[
            alt.Chart(end)
            .mark_text(text="clairvoyant", align="left", dx=8, dy=4, fill=GREY, clip=True)
            .encode(x("budget"), y("mean"))
            for end in [
                data.ceilings.filter((pl.col("mean") <= data.accuracies[0][1]) & (pl.col("method") == first)).sort("budget")[
                    -1:
                ]
            ]
            if len(end)
        ],
        front.mark_point(filled=True, size=encodings.size, clip=True, aria=False, opacity=1).encode(
            *spot,
            encodings.shape,
            color=encodings.colour,
            fillOpacity=encodings.opacity(encodings.mark, 0),
            tooltip=tooltip(FRONT_TOOLTIP),
        ),
        oracles.mark_point(shape="diamond", filled=False, size=130, strokeWidth=2, clip=True, opacity=1).encode(
            *spot, color=encodings.colour, strokeOpacity=encodings.opacity(1, 0.2), tooltip=tooltip(ORACLE_TOOLTIP)
        ),
        # One name for all diamonds, above the highest: the rest follows from the shape.
        highest.mark_text(text="oracle", align="left", dx=-6, dy=-13, fill=GREY, clip=True).encode(*spot),
        backbone.mark_point(filled=True, shape="circle", size=70, fill=GREY, stroke=GREY, clip=True).encode(*spot),
        # At the expensive end and well under its point: there the curves are close to the line, and oracles above it.
        backbone.mark_text(align="right", dx=6, dy=26, fill=GREY, clip=True).encode(*spot, alt.Text("label:N")),
    )


def lower_view(data: ChartData, encodings: Encodings) -> alt.LayerChart | alt.FacetChart:
    """Everything, small."""
    _, whole = data.accuracies
    x_axis = alt.Axis(format="%", title=None, grid=False, tickCount=8)
    y_axis = vertical_axis("Whole range", ticks=3, grid=False)
    x_scale, y_scale = alt.Scale(domain=data.costs, nice=False), alt.Scale(domain=whole, nice=False)
    spot = (alt.X("flops_fraction:Q", axis=x_axis, scale=x_scale), alt.Y("accuracy:Q", axis=y_axis, scale=y_scale))
    oracles, backbone = alt.Chart(data.oracles), alt.Chart(data.backbone)
    hidden = alt.Chart(data.oracles.filter(pl.col("accuracy") > data.accuracies[0][1]).sort("flops_fraction")[-1:])
    return alt.layer(
        alt.Chart(data.curves)
        .mark_line(interpolate="step-after", strokeWidth=1.2)
        .encode(
            alt.X("budget:Q", axis=x_axis, scale=x_scale),
            alt.Y("mean:Q", axis=y_axis, scale=y_scale),
            *encodings.dash,
            encodings.detail,
            color=encodings.colour,
            strokeOpacity=encodings.opacity(1, 0.28),
        ),
        backbone.mark_rule(stroke=GREY, strokeDash=[4, 4]).encode(spot[1]),
        backbone.mark_point(filled=True, shape="circle", size=30, fill=GREY, stroke=GREY).encode(*spot),
        oracles.mark_point(shape="diamond", filled=False, size=36, strokeWidth=1.2).encode(*spot, color=encodings.colour),
        hidden.mark_text(text="oracle", align="left", dx=9, dy=1, fill=GREY, fontSize=10).encode(*spot),
    )


def vertical_axis(title: str, ticks: int, grid: bool = True) -> alt.Axis:
    """Make an axis of accuracies. Its width is fixed, so that both views stand exactly under one another."""
    return alt.Axis(format="~%", title=title, tickCount=ticks, grid=grid, minExtent=46, maxExtent=46)


def tooltip(rows: dict[str, str]) -> list[alt.Tooltip]:
    """Field names to titles; a field of type Q is a share, given in percent."""
    return [
        alt.Tooltip(field, title=title, format=".1%") if field.endswith(":Q") else alt.Tooltip(field, title=title)
        for field, title in rows.items()
    ]


def legend_columns(styles: pl.DataFrame, width: int = 760) -> int:
    """How many methods stand side by side in the legend of a chart of this width, in pixels."""
    return max(1, width // (44 + 8 * max(map(len, styles["method"]))))


def picture(points: pl.DataFrame, styles: pl.DataFrame) -> str:
    """Draw the charts of all backbones as one SVG, with the title and the legend that they need away from the page."""
    seeds = deployable(points)["seed"].n_unique()
    subtitle = [
        f"Line: mean over {counted(seeds, 'seed')} of the branches, band: their range (minimum to maximum).",
        "Marks: operating points chosen on validation images, drawn at their test values.",
    ]
    charts = [
        chart(table, styles, [f"Early exits on {table['dataset'][0]}: {table['backbone'][0]}", *subtitle], place)
        for place, table in enumerate(by_backbone(points))
    ]
    return svg(spec(charts, columns=legend_columns(styles)))
