"""The report says what the table of points says: no more, nothing filled in, and to the same bytes each time."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from made_up_points import RUN, operating_points, paired_with

from calex.__main__ import main
from calex.chart import COLOURS, MOST_ROWS, Shown, chart, in_colour, real, spec, styles
from calex.errors import CalexError
from calex.headline import against_each, gains, headline, stability, tied
from calex.pareto import BUDGETS, at_budgets
from calex.report import build, interval, page, picture, read_points, tried

TWO = {"calexnet": 1.12, "reference": 1.0}


@pytest.fixture(scope="module")
def points() -> pl.DataFrame:
    return operating_points(TWO)


@pytest.fixture(scope="module")
def report(points):
    return build(points, RUN)


def text_of(html: str) -> str:
    """What a reader reads: the page without scripts, styles and tags, in single spaces."""
    html = re.sub(r"(?s)<(script|style|noscript)\b.*?</\1>", " ", html)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())


def band(**curves: list[tuple[float, float, float] | None]) -> pl.DataFrame:
    """Mean, low and high of each curve at budgets 0.7, 0.6, …; None where a seed has no point."""
    return pl.DataFrame(
        [
            {"curve": name, "budget": budget, "mean": at[0], "low": at[1], "high": at[2], "seeds": 3, "of": 3}
            if (at := values[i]) is not None
            else {"curve": name, "budget": budget, "mean": None, "low": None, "high": None, "seeds": 0, "of": 3}
            for name, values in curves.items()
            for i, budget in enumerate(BUDGETS[: len(values)])
        ],
        schema={"curve": pl.String, **dict.fromkeys(("budget", "mean", "low", "high"), pl.Float64), "seeds": int, "of": int},
    )


# What the first sentences may say


def test_a_lead_is_claimed_only_where_the_ranges_do_not_overlap():
    sentences = headline(
        band(a=[(0.97, 0.96, 0.98), (0.95, 0.94, 0.96)], b=[(0.965, 0.95, 0.975), (0.92, 0.91, 0.93)]), backbone_accuracy=0.98
    )
    assert sentences == [
        "Within 70% of the FLOPs the ranges over seeds of a and b overlap (their means are 0.5 points apart); "
        "within 60% of the FLOPs a is ahead of b by 3.0 points, and their ranges over seeds do not overlap.",
        "Within 60% of the FLOPs, a gets 95.0% of the test images right; the backbone alone reaches 98.0%.",
    ]


def test_neighbouring_budgets_share_a_clause():
    ahead = [(0.9, 0.9, 0.9), (0.8, 0.8, 0.8), (0.7, 0.7, 0.7)]
    behind = [(0.89, 0.89, 0.89), (0.78, 0.78, 0.78), (0.68, 0.68, 0.68)]
    assert headline(band(a=behind, b=ahead), None)[0] == (
        "Within every budget from 70% to 50% of the FLOPs b is ahead of a by 1.0 to 2.0 points, "
        "and their ranges over seeds do not overlap."
    )


def test_among_many_the_best_means_are_named_and_no_lead_claimed():
    wide = (0.9, 0.85, 0.95)
    sentences = headline(band(a=[wide, (0.91, 0.86, 0.96)], b=[(0.92, 0.9, 0.94), wide], c=[wide, wide]), None)
    assert sentences[0] == (
        "Within 70% and 60% of the FLOPs no method stands out from the ranges over seeds (best mean: b at 70%, a at 60%)."
    )


def test_one_seed_tells_nothing_apart():
    alone = band(a=[(0.97, 0.97, 0.97)], b=[(0.6, 0.6, 0.6)]).with_columns(seeds=1, of=1)
    assert (
        headline(alone, None)[0] == "Within 70% of the FLOPs one seed does not tell a and b apart (they are 37.0 points apart)."
    )
    assert tied(alone) == ["a", "b"]


def test_where_nothing_fits_that_is_said():
    sentences = headline(band(a=[(0.9, 0.9, 0.9), None, None], b=[(0.8, 0.8, 0.8), (0.7, 0.7, 0.7), None]), None)
    assert sentences[0] == (
        "Within 70% of the FLOPs a is ahead of b by 10.0 points, and their ranges over seeds do not overlap; "
        "within 60% of the FLOPs only b has an operating point for every seed; "
        "within 50% of the FLOPs no method has an operating point for every seed."
    )


def test_a_single_method_is_not_ahead_of_anything():
    assert headline(band(a=[(0.9, 0.9, 0.9)]), None) == ["Within 70% of the FLOPs, a gets 90.0% of the test images right."]


def test_a_curve_that_misses_a_seed_is_not_compared():
    missing = band(a=[(0.9, 0.9, 0.9)], b=[(0.8, 0.8, 0.8)]).with_columns(
        seeds=pl.when(pl.col("curve") == "a").then(2).otherwise(3)
    )
    assert tied(missing) == ["b"]


# What it may say of ours beside the others


def differences(**curves: list[tuple[float, float, float] | None]) -> pl.DataFrame:
    """Difference, low and high of other curves at 0.7, 0.6, …, as `compare` writes them."""
    rows = [
        {"curve": name, "budget": budget, "n": 400, "difference": at and at[0], "low": at and at[1], "high": at and at[2]}
        for name, values in curves.items()
        for budget, at in zip(BUDGETS, values, strict=False)
    ]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(("difference", "low", "high"), pl.Float64))


WORSE, BETTER, EVEN = (-0.02, -0.03, -0.01), (0.02, 0.01, 0.03), (0.0, -0.01, 0.01)


def test_each_verdict_is_counted_and_curves_alike_share_a_line():
    said = against_each(differences(a=[WORSE, WORSE], b=[WORSE, WORSE], c=[EVEN, BETTER], d=[EVEN, None]), "ours")
    assert said == [
        "ours was compared with 4 other curves at 2 budgets, on the same 400 test images and seeds: 8 comparisons, 1 without a "
        "value for want of a point. By their 95% intervals it is ahead in 4, behind in 1, and undecided in 2, where 0 lies "
        "within the interval (which shows no equality). So it does not match or exceed every other curve at every budget. "
        "Were there no differences at all, 0.35 of 7 intervals would leave 0 out by chance in the mean; nothing is corrected for "
        "that.",
        "Against c: behind at 60%, undecided at 70%.",
        "Against a and b: ahead at every budget.",
        "Against d: undecided at 70%, without a value at 60%.",
    ]


def test_an_end_at_nought_decides_nothing():
    said = against_each(differences(a=[(-0.01, -0.02, 0.0)], b=[(0.01, 0.0, 0.02)]), "ours")
    assert "ahead in 0, behind in 0, and undecided in 2" in said[0] and "Nowhere is it shown to be behind." in said[0]


def test_nothing_to_compare_is_said():
    assert against_each(differences(a=[None, None]), "ours") == [
        "Nowhere do ours and another curve both have a point for every seed: nothing can be compared."
    ]


def on_grid(**curves: list[list[float | None]]) -> pl.DataFrame:
    """For each curve and seed the test accuracy at budgets 0.2, 0.5, 0.7 and 0.9."""
    return pl.DataFrame(
        [
            {"curve": name, "seed": seed, "budget": budget, "test_accuracy": accuracy}
            for name, seeds in curves.items()
            for seed, values in enumerate(seeds)
            for budget, accuracy in zip((0.2, 0.5, 0.7, 0.9), values, strict=True)
        ]
    )


def test_gains_within_and_outside_30_to_70_percent_by_hand():
    # In the middle 0.04 and 0.02, so 3 points; at 0.9 one point; at 0.2 only one of the two has a point for both seeds.
    grid = on_grid(ours=[[0.5, 0.84, 0.92, 0.95], [None, 0.84, 0.92, 0.95]], a=[[0.5, 0.8, 0.9, 0.94], [0.5, 0.8, 0.9, 0.94]])
    assert gains(grid, "ours") == [
        "In test accuracy ours gains over a, in the mean, +3.0 points at FLOPs reductions of 30–70%, +1.0 points below 30%; it is "
        "a gain that is largest at 30–70%. (Means over seeds and over the budgets at which both have points; they have no "
        "interval.)"
    ]
    (turned,) = gains(grid, "a")
    assert "−3.0 points at" in turned and "it is not a gain that is largest" in turned


def test_gains_over_several_are_counted():
    even, steep = [[0.55, 0.8, 0.8, 0.8]], [[0.1, 0.7, 0.7, 0.8]]
    (said,) = gains(on_grid(ours=[[0.6, 0.9, 0.9, 0.8]], a=even, b=steep), "ours")
    assert "+15.0 points at FLOPs reductions of 30–70%, 0.0 points below 30%, +27.5 points above 70%" in said
    assert "the gain is largest at 30–70% against 1 of 2" in said  # over b it is larger beyond 70 %


def test_the_order_of_seeds_by_hand():
    same = on_grid(ours=[[0, 0.9, 0.9, 0], [0, 0.8, 0.8, 0]], a=[[0, 0.8, 0.8, 0], [0, 0.7, 0.7, 0]], b=[[0, 0.1, 0.1, 0]] * 2)
    assert stability(same, "ours") == [
        "By mean test accuracy within 50% to 70% of the FLOPs, the 3 curves stand in the same order for each of 2 seeds, ours "
        "first; ours is on the same side of 2 of 2 others for every seed."
    ]
    mixed = on_grid(
        ours=[[0, 0.9, 0.9, 0], [0, 0.6, 0.6, 0]], a=[[0, 0.8, 0.8, 0], [0, 0.7, 0.7, 0]], b=[[0, 0.1, None, 0]] * 2
    )
    assert stability(mixed, "ours") == [
        "By mean test accuracy within 50% to 70% of the FLOPs, the 2 curves (1 curve without such points left out) do not stand "
        "in the same order for each of 2 seeds; first is ours for 1 seed and a for 1 seed."
    ]
    assert stability(same.filter(pl.col("seed") == 0), "ours") == []


@pytest.mark.parametrize(
    ("values", "images", "said"),
    [
        ((-0.004, -0.009, 0.001), 400, "−0.4 [−0.9, +0.1]"),
        ((-0.0001, -0.009, 0.0), 400, "0.0 [−0.9, 0.0]"),
        ((0.00042, -0.0001, 0.001), 90_000, "+0.04 [−0.01, +0.10]"),
    ],
)
def test_a_difference_is_told_as_finely_as_the_images_allow(values, images, said):
    assert interval(dict(zip(("difference", "low", "high"), values, strict=True), n=images)) == said


def test_settings_that_gave_the_same_points_are_one():
    points = operating_points({"a": 1.0, "b": 1.0}, variants=("x", "y"), policies=("p", "q"), seeds=(0,))
    # b's policy q is p under another name.
    swept = points.filter(~((pl.col("method") == "b") & (pl.col("policy") == "q")))
    twice = swept.filter((pl.col("method") == "b") & (pl.col("policy") == "p")).with_columns(policy=pl.lit("q"))
    assert tried(pl.concat([swept, twice])) == [
        {"method": "a", "settings": 4, "variants": 2, "policies": 2, "points": 484},
        {"method": "b", "settings": 2, "variants": 2, "policies": 2, "points": 484},
    ]


def test_the_table_has_the_difference_beside_each_curve_and_so_has_the_markdown(points):
    paired = paired_with(("reference", "cpm_survivors"), points)
    made = build(points, RUN, paired)
    assert build(points, RUN, paired.sample(fraction=1, shuffle=True, seed=1)) == made
    read, rows = text_of(made.html), made.md.splitlines()
    for row in paired.iter_rows(named=True):
        assert read.count(interval(row)) >= 1 and made.md.count(interval(row)) >= 1
    assert "this curve less reference" in read and "What the comparison says of reference" in read
    # Ours is first, in the page and in the file, and has no difference to itself.
    assert read.index("reference ours 9") < read.index("calexnet 9")
    assert rows[2] == "| | 70% | 60% | 50% | 40% | 30% | area, 30–70% saved |"
    assert rows[4].startswith("| reference |") and "<br>" not in rows[4]
    assert rows[5].startswith("| calexnet |") and rows[5].count("<br>") == 5


def test_the_markdown_says_on_what_and_with_what(points):
    said = build(points, RUN).md.splitlines()[-3:]
    assert said == [
        "",
        "1,000 train, 397 val and 400 test images; seeds 0, 1 and 2; Intel(R) Xeon(R) Processor @ 2.60GHz, 2 cores; "
        "calex 0.1.0, numpy 2.3.1, polars 1.31.0, python 3.11.2, torch 2.7.1+cpu.",
        "Made by `snakemake --cores all results/pareto_digits.html`.",
    ]
    assert build(points, {}).md.endswith("|\n"), "what is not known is not said"


def test_the_text_speaks_of_each_of_ours_and_the_table_of_the_first(points):
    first, second = paired_with(("reference", "cpm_survivors"), points), paired_with(("calexnet", "cpm_survivors"), points)
    both = pl.concat([second.with_columns(ours=pl.lit(1, pl.Int64)), first])
    made, alone = build(points, {}, both), build(points, {}, first)
    assert made.svg == alone.svg and made.md.startswith(alone.md)
    read = text_of(made.html)
    assert read.index("What the comparison says of reference") < read.index("What the comparison says of calexnet")
    added = made.md.removeprefix(alone.md)
    assert added.startswith(
        "\nWhat the comparison says of calexnet:\n\n- Does it match or exceed the others? calexnet was compared"
    )
    assert "\n- Are its gains largest at FLOPs reductions of 30–70%?" in added and "\n- Do seeds agree?" in added


def test_ours_are_not_rivals_of_one_another():
    points = operating_points({"a": 1.0, "b": 1.0, "rival": 0.9}, policies=("p", "q"))
    both = pl.concat([paired_with((name, "p"), points).with_columns(ours=pl.lit(n, pl.Int64)) for n, name in enumerate("ab")])
    read = text_of(build(points, {}, both).html)
    for name in "ab":
        assert f"{name} · p was compared with 2 other curves, none of them ours, at 5 budgets" in read
        assert f"{name} · p gains over the 2 other curves" in read
    assert "a · p ours" in read and "b · p ours" in read and "a · q ours" not in read
    # Nobody else: then they are.
    alone = points.filter(pl.col("method") != "rival")
    read = text_of(build(alone, {}, both.filter(pl.col("method") != "rival")).html)
    assert "a · p was compared with 3 other curves at 5 budgets" in read


def test_where_no_value_is_there_none_is_filled_in(points):
    paired = paired_with(("reference", "cpm_survivors"), points)
    gone = pl.when(pl.col("budget") != 0.4)
    paired = paired.with_columns(gone.then(pl.col(name)).alias(name) for name in ("difference", "low", "high"))
    made = build(points, RUN, paired)
    assert text_of(made.html).count("not compared") == 1
    assert "without a value at 40%" in made.html and made.md.count("<br>") == 4


# The page


def test_equal_input_gives_equal_bytes(points, report):
    again = build(points.clone(), json.loads(json.dumps(RUN)))
    assert again == report


def test_the_page_stands_alone(report):
    head = report.html.split("<script", 1)[0]
    assert report.html.startswith("<!doctype html>")
    assert '<html lang="en">' in head
    assert "<title>Early exits on digits: accuracy against cost</title>" in head
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in head
    assert "default-src 'none'" in head

    class Addresses(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    Addresses().feed(report.html)
    assert Addresses.found == ["data:,"]
    assert "url(" not in head


def test_the_table_holds_the_test_values_of_the_validated_choice(points, report):
    read = text_of(report.html)
    at_half = at_budgets(points, [0.5]).filter((pl.col("method") == "calexnet") & (pl.col("policy") != "oracle"))
    values = 100 * at_half["test_accuracy"].to_numpy()
    spent = 100 * at_half["test_flops_fraction"].mean()
    assert len(values) == 3
    assert f"{values.mean():.1f} {values.min():.1f}–{values.max():.1f} at {spent:.1f}%" in read


def test_a_budget_that_nothing_fits_is_said_and_not_filled(points):
    dear = points.filter((pl.col("method") != "calexnet") | (pl.col("flops_fraction") > 0.45) | (pl.col("policy") == "oracle"))
    both = ["dataset", "backbone", "method", "variant", "policy", "seed", "point"]
    dear = dear.filter(pl.len().over(both) == 2)
    read = text_of(page(dear, RUN))
    row = read[read.index("calexnet", read.index("FLOPs at most")) :]
    assert row.count("no point fits", 0, row.index("reference")) == 2
    assert re.search(r"partial: 6\d% of the range", row)
    # The same two budgets have no bar.
    assert read.count("no point fits") == 4


def test_a_point_for_some_seeds_only_is_marked():
    points = operating_points(TWO)
    both = ["dataset", "backbone", "method", "variant", "policy", "seed", "point"]
    kept = (pl.col("method") != "calexnet") | (pl.col("seed") != 1) | (pl.col("flops_fraction") > 0.45)
    read = text_of(page(points.filter(kept).filter(pl.len().over(both) == 2), RUN))
    assert "2 of 3 seeds fit" in read


def test_the_bars_are_the_mean_shares_over_seeds(points, report):
    chosen = at_budgets(points, [0.7]).filter((pl.col("method") == "reference") & (pl.col("policy") != "oracle"))
    mean = np.array(chosen["exit_share"].to_list()).mean(axis=0)
    widths = [float(width) for width in re.findall(r'<span style="width:([\d.]+)%', report.html)][4:8]
    assert widths == pytest.approx(100 * mean, abs=0.001)


def test_what_was_run_is_told(report):
    read = text_of(report.html)
    for told in (
        "train 1,000, val 397, test 400",
        "0, 1, 2",
        "11.2 M parameters, 1.1 GFLOPs an image, branches after layer1, layer2 and layer3, trained on train",
        "calexnet 1 (1 variant × 1 policy, 121 operating points a seed); reference 1 (1 variant × 1 policy",
        "no GPU",
        "torch 2.7.1+cpu",
        RUN["fingerprints"]["dataset"],
        RUN["fingerprints"]["backbones"]["resnet18"],
        "snakemake --cores all results/pareto_digits.html",
        "temperature: 4.0",
        "Seeds vary the branches only",
        "One test image is worth 0.25 points",
    ):
        assert told in read


def test_a_run_that_says_nothing_is_tolerated(points):
    read = text_of(page(points, {}))
    assert "None" not in read and "Undefined" not in read and "Versions" not in read
    assert "val 397, test 400" in read


def test_a_backbone_that_saw_the_test_images_is_reported(points):
    run = {**RUN, "backbones": {"resnet18": {**RUN["backbones"]["resnet18"], "trained_on": ["train", "val"]}}}
    assert "It was trained on val images: what they say of it is flattered." in text_of(page(points, run))


def test_a_table_without_oracles_and_backbone_is_drawn(points):
    bare = points.filter((pl.col("policy") != "oracle") & (pl.col("method") != "backbone"))
    html, svg = page(bare, RUN), picture(bare)
    assert "Hollow diamonds" not in html and "The backbone alone" not in html
    assert "calexnet" in svg and "backbone alone" not in svg


def test_names_cannot_break_out_of_the_page():
    name = "</script><img src=x onerror=alert(1)>"
    html = page(operating_points({name: 1.0}), {**RUN, "command": "<b>&"})
    written, scripts = html.split("<script>", 1)  # the libraries' own scripts mention all kinds of tags
    for ours in (written, scripts.rsplit("<script>", 1)[1]):
        assert "<img" not in ours and "<b>&" not in ours
    spec_text = html.split('<script type="application/json" id="spec-0">')[1].split("</script>")[0]
    assert any(row.get("curve") == name for rows in json.loads(spec_text)["datasets"].values() for row in rows)


def test_several_backbones_have_a_section_each():
    points = operating_points(TWO, backbones=("resnet18", "resnet50"))
    html, svg = page(points, RUN), picture(points)
    assert html.count('class="chart"') == 2
    for backbone in ("resnet18", "resnet50"):
        assert f'<section id="{backbone}">' in html
        assert f">Early exits on digits: {backbone}</text>" in svg


def test_policies_of_one_method_get_names_of_their_own():
    html = page(operating_points({"calexnet": 1.0}, policies=("cpm_full", "cpm_survivors")), RUN)
    assert "calexnet · cpm_full" in html and "calexnet · cpm_survivors" in html


def test_the_files_beside_the_page(points, report):
    assert report.png.startswith(b"\x89PNG")
    assert report.svg.startswith("<svg") and "backbone alone 97.8%" in report.svg
    table = pl.read_csv(io.StringIO(report.csv))
    front = points.filter(pl.col("on_front") & (pl.col("split") == "test"))
    assert len(table) == len(front)
    assert table["accuracy"].sum() == pytest.approx(front["accuracy"].sum())
    val = points.filter(pl.col("on_front") & (pl.col("split") == "val"))
    assert table["val_flops_fraction"].sum() == pytest.approx(val["flops_fraction"].sum())
    shares = table.select(r"^exit_share_.*$")
    assert shares.columns == ["exit_share_branch1", "exit_share_branch2", "exit_share_branch3", "exit_share_backbone"]
    assert shares.sum_horizontal().to_numpy() == pytest.approx(1)


# The chart


def test_the_chart_covers_the_whole_range(points):
    drawn = spec([chart(points, styles(points))])
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
    (low, high), (bottom, top) = Shown(curves, spot, above, spot).accuracies
    assert bottom < 0.6 and top > oracle, "the whole has everything"
    assert 0.85 < low < 0.9 and (high > oracle) == close, "a close look begins where the curve is at the least budget"


def test_the_chart_stays_small_however_many_points_there_are():
    methods = {f"method{i}": 0.8 + 0.05 * i for i in range(7)}
    points = operating_points(methods, variants=("a", "b"), policies=("p", "q"), seeds=tuple(range(5)))
    drawn = spec([chart(points, styles(points))])
    assert len(points) > 20_000
    assert sum(len(rows) for rows in drawn["datasets"].values()) <= MOST_ROWS + 50


def test_of_many_methods_ours_and_the_best_are_in_colour_and_the_rest_grey():
    methods = {f"method{i}": 0.7 + 0.06 * i for i in range(9)}
    points = operating_points(methods, seeds=(0, 1), policies=("p", "q"))
    names = styles(points, [("method2", "q")])
    assert names.row(0)[:3] == ("method2", "q", "method2 · q")
    assert names.select("policy", "dash").unique().sort("dash").rows() == [("q", 0), ("p", 1)]
    drawn = spec([chart(points, names)])
    (chosen,) = [param for param in drawn["params"] if param["name"] == "method_0"]
    assert {each["method"] for each in chosen["value"]} == {"method2", "method8", "method7", "method6", "method5"}
    svg = picture(points, paired_with(("method2", "q"), points))
    lines = re.findall(r'aria-roledescription="line mark"[^>]*stroke="([^"]*)"', svg)
    # Two policies in two views; the four methods that were not chosen share a grey.
    assert lines.count("#7a828c") == 4 * 4 and lines.count(COLOURS[0]) == 4
    # Rasterising takes long where every line has a clip path of its own.
    assert svg.count(' clip-path="') < 15


def test_few_methods_are_all_in_colour(points):
    assert in_colour(real(points), styles(points)) == []
    assert "#7a828c" not in re.findall(r'aria-roledescription="line mark"[^>]*stroke="([^"]*)"', picture(points))


def test_a_method_keeps_its_colour_when_a_backbone_lacks_another():
    points = operating_points({"a": 1.0, "b": 1.0}, backbones=("resnet18", "resnet50"))
    points = points.filter((pl.col("method") != "a") | (pl.col("backbone") == "resnet18"))
    second = spec([chart(points.filter(pl.col("backbone") == "resnet50"), styles(points))])
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


# The step


def step(folder, points: pl.DataFrame | bytes, run: str = json.dumps(RUN)) -> int:
    table = folder / "points.parquet"
    table.write_bytes(points) if isinstance(points, bytes) else points.write_parquet(table)
    (folder / "run.json").write_text(run)
    return main(
        ["report", "--points", str(table), "--run", str(folder / "run.json"), "--out", str(folder / "out" / "page.html")]
    )


def test_the_step_writes_five_files_and_leaves_nothing_else(tmp_path, points, report):
    assert step(tmp_path, points) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "page.csv",
        "page.html",
        "page.md",
        "page.png",
        "page.svg",
    ]
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8") == report.html
    assert (tmp_path / "out" / "page.png").read_bytes() == report.png
    assert (tmp_path / "out" / "page.md").read_text(encoding="utf-8") == report.md


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda p: b"PAR1 and no more", "points.parquet: damaged (parquet: File out of specification"),
        (lambda p: p.drop("exit_share", "seed"), "has no column 'seed'"),
        (lambda p: p.with_columns(accuracy=pl.lit("high")), "column 'accuracy' is String, not Float64"),
        (lambda p: p.clear(), "this table has no rows"),
        (lambda p: pl.concat([p, p.with_columns(dataset=pl.lit("cinic10"))]), "this table has cinic10 and digits"),
        (lambda p: p.filter(pl.col("method") == "backbone"), "no operating points but the backbone's"),
        (lambda p: pl.concat([p, p[:1]]), "is there twice for split"),
        (lambda p: p.filter((pl.col("point") != 7) | (pl.col("split") == "test")), "it needs val and test"),
        (lambda p: p.with_columns(accuracy=pl.col("accuracy") + 1), "expected an accuracy in [0, 1]"),
        (lambda p: p.with_columns(flops_fraction=pl.lit(float("nan"))), "at flops_fraction nan"),
    ],
)
def test_a_bad_table_is_one_line_and_nothing_is_written(tmp_path, capsys, points, spoil, said):
    assert step(tmp_path, spoil(points)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "points.parquet" in error and said in error
    assert not (tmp_path / "out").exists()


def test_a_table_of_other_differences_is_one_line(tmp_path, capsys, points):
    paired = paired_with(("reference", "cpm_survivors"), points)
    points.write_parquet(tmp_path / "points.parquet")
    (tmp_path / "run.json").write_text("{}")
    for spoilt, said in (
        (paired.drop("low"), "has no column 'low'"),
        (paired.with_columns(dataset=pl.lit("cinic10")), "is about cinic10, not digits"),
    ):
        spoilt.write_parquet(tmp_path / "paired.parquet")
        files = [("points", "points.parquet"), ("run", "run.json"), ("paired", "paired.parquet"), ("out", "page.html")]
        assert main(["report", *(part for name, file in files for part in (f"--{name}", str(tmp_path / file)))]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "paired.parquet" in error and said in error
        assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(("run", "said"), [("{", "not valid JSON"), ("[]", "expected a JSON object")])
def test_a_bad_description_is_one_line(tmp_path, capsys, points, run, said):
    assert step(tmp_path, points, run) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "run.json" in error and said in error


def test_a_page_must_be_called_a_page(tmp_path, capsys):
    assert main(["report", "--points", "p", "--run", "r", "--out", str(tmp_path / "page.pdf")]) == 2
    assert "name it .html" in capsys.readouterr().err


def test_a_missing_table_is_one_line(tmp_path, capsys):
    with pytest.raises((CalexError, OSError)):
        read_points(tmp_path / "none.parquet")
    (tmp_path / "run.json").write_text("{}")
    none, out = tmp_path / "none.parquet", tmp_path / "page.html"
    assert main(["report", "--points", str(none), "--run", str(tmp_path / "run.json"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
