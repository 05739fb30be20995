"""Claims about curves are computed from the numbers, and their sentences carry no more than they do."""

from __future__ import annotations

import polars as pl
import pytest

from calex.comparison.pareto import BUDGETS
from calex.report.claims import VERDICTS, comparison, gains, seed_order, tied
from calex.report.formatting import interval
from calex.report.wording import comparison_sentences, gain_clause, gain_sentence, headline, order_sentence


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


# What the first sentences may claim


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
        "Within 70% and 60% of the FLOPs the ranges over seeds of the best methods overlap (best mean: b at 70%, a at 60%)."
    )


def test_one_seed_tells_nothing_apart():
    alone = band(a=[(0.97, 0.97, 0.97)], b=[(0.6, 0.6, 0.6)]).with_columns(seeds=1, of=1)
    assert headline(alone, None)[0] == "Within 70% of the FLOPs one seed cannot separate a and b (they are 37.0 points apart)."
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


# What may be claimed of ours beside the others


def differences(**curves: list[tuple[float, float, float] | None]) -> pl.DataFrame:
    """Difference, low and high of other curves at 0.7, 0.6, …, as `compare` writes them."""
    rows = [
        {"curve": name, "budget": budget, "n": 400, "difference": at and at[0], "low": at and at[1], "high": at and at[2]}
        for name, values in curves.items()
        for budget, at in zip(BUDGETS, values, strict=False)
    ]
    return pl.DataFrame(rows, schema_overrides=dict.fromkeys(("difference", "low", "high"), pl.Float64))


WORSE, BETTER, EVEN = (-0.02, -0.03, -0.01), (0.02, 0.01, 0.03), (0.0, -0.01, 0.01)


def test_each_verdict_is_counted_and_the_worst_rivals_come_first():
    found = comparison(differences(a=[WORSE, WORSE], b=[WORSE, WORSE], c=[EVEN, BETTER], d=[EVEN, None]), "ours")
    assert found.verdicts == {
        "c": {0.7: "undecided", 0.6: "behind"},
        "a": {0.7: "ahead", 0.6: "ahead"},
        "b": {0.7: "ahead", 0.6: "ahead"},
        "d": {0.7: "undecided", 0.6: "missing"},
    }
    assert list(found.verdicts) == ["c", "a", "b", "d"]
    assert comparison_sentences(found) == [
        "Compared with 4 other curves, at 2 budgets on the same 400 test images and seeds: ahead in 4 of 7 comparisons, "
        "undecided in 2, behind in 1; 1 without a value, because a point is missing.",
        "Undecided: the 95% interval contains 0, which does not show equality. Were there no differences, 0.35 of 7 intervals "
        "would be expected to exclude 0 by chance; nothing is corrected for that.",
    ]


def test_an_end_at_0_decides_nothing():
    found = comparison(differences(a=[(-0.01, -0.02, 0.0)], b=[(0.01, 0.0, 0.02)]), "ours")
    assert [found.count(verdict) for verdict in VERDICTS] == [0, 2, 0, 0]


def test_where_nothing_can_be_compared_that_is_said():
    assert comparison_sentences(comparison(differences(a=[None, None]), "ours")) == [
        "There is no budget at which both curves have a point for every seed, so nothing can be compared."
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
    found = gains(grid, "ours")
    assert found.means == {"middle": pytest.approx(0.03), "below": pytest.approx(0.01)}
    assert gain_sentence(found) == (
        "Mean gain in test accuracy over a: +3.0 points at FLOPs reductions of 30–70%, +1.0 below 30%; largest at 30–70% against "
        "1 of 1 curve. Means over seeds and budgets, without an interval."
    )
    turned = gain_sentence(gains(grid, "a"))
    assert "−3.0 points at" in turned and "against 0 of 1 curve." in turned


def test_gains_over_several_are_counted():
    even, steep = [[0.55, 0.8, 0.8, 0.8]], [[0.1, 0.7, 0.7, 0.8]]
    found = gains(on_grid(ours=[[0.6, 0.9, 0.9, 0.8]], a=even, b=steep), "ours")
    assert gain_clause(found) == "+15.0 points at FLOPs reductions of 30–70%, 0.0 below 30%, +27.5 above 70%"
    assert found.comparable == ["a", "b"] and found.largest_in_the_middle == ["a"]  # over b it is larger beyond 70 %


def test_no_gain_is_given_where_no_other_curve_has_points():
    found = gains(on_grid(ours=[[0.6, 0.9, 0.9, 0.8]], a=[[0.6, None, None, 0.8]]), "ours")
    assert gain_sentence(found).startswith("At FLOPs reductions of 30–70% no other curve has a point")


def test_the_order_of_seeds_by_hand():
    same = on_grid(ours=[[0, 0.9, 0.9, 0], [0, 0.8, 0.8, 0]], a=[[0, 0.8, 0.8, 0], [0, 0.7, 0.7, 0]], b=[[0, 0.1, 0.1, 0]] * 2)
    assert order_sentence(seed_order(same, "ours")) == (
        "By mean test accuracy from 50% to 70% of the FLOPs, the 3 curves stand in the same order for each of 2 seeds, ours "
        "first. ours is on the same side of 2 of 2 others for every seed."
    )
    mixed = on_grid(
        ours=[[0, 0.9, 0.9, 0], [0, 0.6, 0.6, 0]], a=[[0, 0.8, 0.8, 0], [0, 0.7, 0.7, 0]], b=[[0, 0.1, None, 0]] * 2
    )
    assert order_sentence(seed_order(mixed, "ours")) == (
        "By mean test accuracy from 50% to 70% of the FLOPs, the 2 curves (1 curve without points for every seed left out) do "
        "not stand in the same order for each of 2 seeds; first is ours for 1 seed and a for 1 seed."
    )
    assert seed_order(same.filter(pl.col("seed") == 0), "ours") is None


@pytest.mark.parametrize(
    ("values", "images", "text"),
    [
        ((-0.004, -0.009, 0.001), 400, "−0.4 [−0.9, +0.1]"),
        ((-0.0001, -0.009, 0.0), 400, "0.0 [−0.9, 0.0]"),
        ((0.00042, -0.0001, 0.001), 90_000, "+0.04 [−0.01, +0.10]"),
    ],
)
def test_a_difference_is_given_as_finely_as_the_images_allow(values, images, text):
    assert interval(*values, images) == text
