"""The chart covers everything, stays small, and keeps colours and shapes where they belong."""

from __future__ import annotations

import re

import numpy as np
import polars as pl
import pytest
from synthetic_points import TWO, operating_points

from calex.comparison.pareto import deployable
from calex.report.chart import chart, picture
from calex.report.chart_data import MAX_ROWS, ChartData
from calex.report.styles import COLOURS, curve_styles, highlighted
from calex.report.vega import spec


@pytest.fixture(scope="module")
def points() -> pl.DataFrame:
    return operating_points(TWO)


def test_the_chart_covers_the_whole_range(points):
    drawn = spec([chart(points, curve_styles(points))])
    rows = [row for data in drawn["datasets"].values() for row in data]
    for name in TWO:
        costs = [row["flops_fraction"] for row in rows if row.get("curve") == name and "seed" in row]
        budgets = [row["budget"] for row in rows if row.get("curve") == name and "budget" in row]
        assert min(costs) < 0.3 and min(budgets) < 0.3 and max(budgets) > 1
    assert {"accuracy": 0.978, "flops_fraction": 1.0, "label": "backbone alone 97.8%"} in rows
    lower = drawn["vconcat"][1]["layer"][0]["encoding"]
    assert lower["y"]["scale"]["domain"][0] <= min(row["low"] for row in rows if "low" in row)
    assert lower["x"]["scale"]["domain"][0] < 0.29 and lower["x"]["scale"]["domain"][1] > 1.03


@pytest.mark.parametrize(("oracle", "close"), [(0.935, True), (0.96, False)])
def test_an_oracle_far_above_does_not_squash_the_curves(oracle, close):
    budget = [0.2, 0.3, 0.5, 1.0]
    accuracy = [0.6, 0.9, 0.92, 0.925]
    curves = pl.DataFrame({"curve": "a", "budget": budget, "mean": accuracy, "low": accuracy, "high": accuracy})
    spot = pl.DataFrame({"accuracy": [0.926], "flops_fraction": [1.0]})
    above = pl.DataFrame({"accuracy": [oracle], "flops_fraction": [0.3]})
    (low, high), (bottom, top) = ChartData(curves, spot, above, spot).accuracies
    assert bottom < 0.6 and top > oracle, "the whole has everything"
    assert 0.85 < low < 0.9 and (high > oracle) == close, "a close look begins where the curve is at the least budget"


def test_the_chart_stays_small_however_many_points_there_are():
    methods = {f"method{i}": 0.8 + 0.05 * i for i in range(7)}
    points = operating_points(methods, variants=("a", "b"), policies=("p", "q"), seeds=tuple(range(5)))
    drawn = spec([chart(points, curve_styles(points))])
    assert len(points) > 20_000
    assert sum(len(rows) for rows in drawn["datasets"].values()) <= MAX_ROWS + 50


def test_of_many_methods_ours_and_the_best_are_in_colour_and_the_rest_grey():
    methods = {f"method{i}": 0.7 + 0.06 * i for i in range(9)}
    points = operating_points(methods, seeds=(0, 1), policies=("p", "q"))
    styles = curve_styles(points, [("method2", "q")])
    assert styles.row(0)[:3] == ("method2", "q", "method2 · q")
    assert styles.select("policy", "dash").unique().sort("dash").rows() == [("q", 0), ("p", 1)]
    drawn = spec([chart(points, styles)])
    (chosen,) = [param for param in drawn["params"] if param["name"] == "method_0"]
    assert {each["method"] for each in chosen["value"]} == {"method2", "method8", "method7", "method6", "method5"}
    svg = picture(points, styles)
    lines = re.findall(r'aria-roledescription="line mark"[^>]*stroke="([^"]*)"', svg)
    # Two policies in two views; the four methods that were not chosen share a grey.
    assert lines.count("#7a828c") == 4 * 4 and lines.count(COLOURS[0]) == 4
    # Rasterising takes long where every line has a clip path of its own.
    assert svg.count(' clip-path="') < 15


def test_few_methods_are_all_in_colour(points):
    assert highlighted(deployable(points), curve_styles(points)) == []
    assert "#7a828c" not in re.findall(
        r'aria-roledescription="line mark"[^>]*stroke="([^"]*)"', picture(points, curve_styles(points))
    )


def test_a_method_keeps_its_colour_when_a_backbone_lacks_another():
    points = operating_points({"a": 1.0, "b": 1.0}, backbones=("resnet18", "resnet50"))
    points = points.filter((pl.col("method") != "a") | (pl.col("backbone") == "resnet18"))
    second = spec([chart(points.filter(pl.col("backbone") == "resnet50"), curve_styles(points))])
    scale = second["vconcat"][0]["layer"][1]["encoding"]["color"]["condition"]["scale"]
    assert (scale["domain"], scale["range"]) == (["b"], [COLOURS[1]])


@pytest.mark.parametrize("ground", ["#ffffff", "#15181c"])
def test_colours_are_seen_on_light_and_dark(ground):
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    for colour in COLOURS:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour
