"""Fronts, budgets and areas: golden values worked by hand, and plain loops beside the vectorised functions."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from calex.comparison.pareto import AREA_BUDGETS, CURVE, area, at_budgets, curve_on_grid, front, mark_fronts, over_seeds


def operating_points(rows: list[dict]) -> pl.DataFrame:
    """Both splits of some operating points; each row gives point, val = (accuracy, cost) and test likewise."""
    return pl.DataFrame(
        [
            {
                "dataset": "digits",
                "backbone": "resnet18",
                "method": row.get("method", "calexnet"),
                "variant": row.get("variant", "default"),
                "policy": row.get("policy", "cpm"),
                "seed": row.get("seed", 0),
                "point": row["point"],
                "parameters": "{}",
                "split": split,
                "accuracy": float(row[split][0]),
                "flops_fraction": float(row[split][1]),
                "exit_share": [0.5, 0.5],
            }
            for row in rows
            for split in ("val", "test")
        ]
    )


# Few distinct values, so that ties in either coordinate and whole duplicates are common.
grid_values = st.integers(0, 6).map(lambda i: i / 6)
pairs = st.lists(st.tuples(grid_values, grid_values), max_size=25)


def front_by_loops(accuracy: list[float], cost: list[float]) -> list[bool]:
    def beats(j: int, i: int) -> bool:
        at_least = accuracy[j] >= accuracy[i] and cost[j] <= cost[i]
        return at_least and (accuracy[j] > accuracy[i] or cost[j] < cost[i])

    return [not any(beats(j, i) for j in range(len(accuracy))) for i in range(len(accuracy))]


@given(pairs)
def test_front_equals_plain_loops(points):
    accuracy, cost = [a for a, _ in points], [c for _, c in points]
    assert front(np.array(accuracy), np.array(cost)).tolist() == front_by_loops(accuracy, cost)


def test_front_by_hand():
    #            cheap, better, same as it, dearer and worse, dearer but best, as dear but worse
    accuracy = np.array([0.5, 0.7, 0.7, 0.6, 0.9, 0.8])
    cost = np.array([0.2, 0.4, 0.4, 0.5, 0.8, 0.8])
    assert front(accuracy, cost).tolist() == [True, True, True, False, True, False]


def test_front_of_nothing_and_of_one():
    assert front(np.empty(0), np.empty(0)).tolist() == []
    assert front(np.array([0.1]), np.array([2.0])).tolist() == [True]


@pytest.mark.parametrize(("accuracy", "cost"), [([0.5, np.nan], [0.1, 0.2]), ([0.5], [np.inf]), ([0.5], [0.1, 0.2])])
def test_front_refuses_what_has_no_order(accuracy, cost):
    with pytest.raises(ValueError):
        front(np.array(accuracy), np.array(cost))


def test_fronts_are_decided_on_validation_and_said_of_both_splits():
    points = operating_points(
        [
            {"point": 0, "val": (0.8, 0.3), "test": (0.1, 0.9)},  # bad on test only: stays
            {"point": 1, "val": (0.7, 0.4), "test": (1.0, 0.1)},  # good on test only: goes
            {"point": 2, "val": (0.9, 0.5), "test": (0.9, 0.5)},
        ]
    )
    marked = mark_fronts(points)
    assert marked["point"].to_list() == points["point"].to_list()
    assert marked.filter(pl.col("on_front"))["point"].to_list() == [0, 0, 2, 2]
    assert mark_fronts(marked).equals(marked)


def test_variants_compete_for_one_front_and_seeds_do_not():
    points = operating_points(
        [
            {"variant": "a", "point": 0, "val": (0.8, 0.3), "test": (0.8, 0.3)},
            {"variant": "b", "point": 0, "val": (0.7, 0.3), "test": (0.7, 0.3)},
            {"variant": "b", "seed": 1, "point": 0, "val": (0.1, 0.9), "test": (0.1, 0.9)},
        ]
    )
    marked = mark_fronts(points).filter(pl.col("split") == "test")
    assert marked["on_front"].to_list() == [True, False, True]


def test_a_point_without_validation_is_on_no_front():
    points = operating_points([{"point": 0, "val": (0.8, 0.3), "test": (0.8, 0.3)}]).filter(pl.col("split") == "test")
    assert mark_fronts(points)["on_front"].to_list() == [False]


def choice_by_loops(rows: list[dict], budget: float) -> dict | None:
    fitting = [row for row in rows if row["val"][1] <= budget]
    if not fitting:
        return None
    return min(fitting, key=lambda row: (-row["val"][0], row["val"][1], row["variant"], row["point"]))


@examples(60)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 2), grid_values, grid_values, grid_values), min_size=1, max_size=20
    ),
    st.lists(grid_values, min_size=1, max_size=5, unique=True),
)
def test_budgets_equal_plain_loops(drawn, budgets):
    rows = [
        {"variant": variant, "seed": seed, "point": i, "val": (accuracy, cost), "test": (test, cost / 2)}
        for i, (variant, seed, accuracy, cost, test) in enumerate(drawn)
    ]
    found = at_budgets(operating_points(rows), budgets)
    seeds = sorted({row["seed"] for row in rows})
    assert found.select("seed", "budget").rows() == [(seed, budget) for seed in seeds for budget in sorted(budgets)]
    for row in found.iter_rows(named=True):
        choice = choice_by_loops([r for r in rows if r["seed"] == row["seed"]], row["budget"])
        got = (row["variant"], row["point"], row["val_accuracy"], row["val_flops_fraction"])
        assert got == ((choice["variant"], choice["point"], *choice["val"]) if choice else (None,) * 4)
        assert (row["test_accuracy"], row["test_flops_fraction"]) == (choice["test"] if choice else (None, None))


STAIRS = [
    {"point": 0, "val": (0.80, 0.40), "test": (0.78, 0.41)},
    {"point": 1, "val": (0.90, 0.50), "test": (0.88, 0.52)},
    {"point": 2, "val": (0.95, 0.75), "test": (0.94, 0.74)},
]


def test_budgets_by_hand():
    found = at_budgets(operating_points(STAIRS), [0.7, 0.5, 0.4, 0.3])
    assert found.select("budget", "point", "test_accuracy", "test_flops_fraction").rows() == [
        (0.3, None, None, None),
        (0.4, 0, 0.78, 0.41),
        (0.5, 1, 0.88, 0.52),
        (0.7, 1, 0.88, 0.52),
    ]


def test_a_method_that_never_fits_keeps_its_empty_rows():
    found = at_budgets(operating_points(STAIRS), [0.1])
    assert found["test_accuracy"].to_list() == [None]
    assert found["exit_share"].to_list() == [None]


def test_the_curve_steps_where_the_choice_changes():
    curve = curve_on_grid(operating_points(STAIRS), [0.35, 0.4, 0.45, 0.5, 0.74, 0.75, 1.1])
    assert curve["test_accuracy"].to_list() == [None, 0.78, 0.78, 0.88, 0.88, 0.94, 0.94]


def test_area_by_hand():
    # Of the 401 budgets 0.300 … 0.700, 100 lie below 0.4, 100 in [0.4, 0.5) and 201 from 0.5 on.
    assert len(AREA_BUDGETS) == 401 and (AREA_BUDGETS[0], AREA_BUDGETS[-1]) == (0.3, 0.7)
    (row,) = area(operating_points(STAIRS)).iter_rows(named=True)
    assert row["area"] == pytest.approx((100 * 0.78 + 201 * 0.88) / 301)
    assert row["covered"] == pytest.approx(301 / 401)
    assert row["partial"]


def test_area_of_a_method_that_covers_the_range_and_of_one_that_does_not_reach_it():
    points = operating_points(
        [
            {"method": "cheap", "point": 0, "val": (0.6, 0.3), "test": (0.7, 0.3)},
            {"method": "dear", "point": 0, "val": (0.9, 0.71), "test": (0.9, 0.71)},
        ]
    )
    rows = area(points).select("method", "area", "covered", "partial").rows()
    assert rows[0] == ("cheap", pytest.approx(0.7), 1.0, False)
    assert rows[1] == ("dear", None, 0.0, True)


def test_the_band_over_seeds_is_mean_min_max_of_those_that_have_a_point():
    points = operating_points(
        [
            {"seed": 0, "point": 0, "val": (0.8, 0.3), "test": (0.80, 0.3)},
            {"seed": 1, "point": 0, "val": (0.8, 0.3), "test": (0.90, 0.3)},
            {"seed": 2, "point": 0, "val": (0.8, 0.6), "test": (0.70, 0.6)},
        ]
    )
    band = over_seeds(curve_on_grid(points, [0.2, 0.5, 0.7]), "test_accuracy")
    assert "seed" not in band.columns and set(CURVE) - {"seed"} <= set(band.columns)
    rows = band.select("budget", "mean", "low", "high", "seeds", "of").rows()
    assert rows[0] == (0.2, None, None, None, 0, 3)
    assert rows[1] == (0.5, pytest.approx(0.85), 0.80, 0.90, 2, 3)
    assert rows[2] == (0.7, pytest.approx(0.80), 0.70, 0.90, 3, 3)
