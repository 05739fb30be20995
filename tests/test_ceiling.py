"""The clairvoyant, AUROC, and the tables of the report that show them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_exits import any_exits, log_softmax, random_exits
from synthetic_points import TWO, operating_points

from calex.comparison.pareto import deployable
from calex.report.build import build
from calex.report.calibrations import promise_rows, rooms, score_table
from calex.report.chart_data import chart_data
from calex.report.page import bounded
from calex.report.styles import curve_styles
from calex.simulation import cascade, ceiling
from calex.simulation.evaluation import measure
from calex.steps._calibrations import promises, score_quality
from calex.workflow.plan import CascadeRun

prices = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


@given(any_exits(images=(1, 20)), prices)
def test_who_knows_the_truth_does_at_least_as_well_as_any_rule(given_exits, price):
    """With η the truth itself the clairvoyant is the best choice of exits for each image."""
    eta = (np.vstack([given_exits.predictions, given_exits.backbone]) == given_exits.labels).astype(float)
    rows = measure(given_exits, ceiling.clairvoyant(eta, given_exits.costs, np.array([price])))
    worth = (1 - price) * rows["accuracy"][0] - price * rows["flops_fraction"][0]
    cost = given_exits.costs.by_exit() / given_exits.costs.backbone
    best = np.mean([max((1 - price) * eta[k, i] - price * cost[k] for k in range(len(eta))) for i in range(eta.shape[1])])
    assert worth == pytest.approx(best, abs=1e-9)
    oracle = measure(given_exits, cascade.oracle(given_exits))
    assert worth >= (1 - price) * oracle["accuracy"][0] - price * oracle["flops_fraction"][0] - 1e-9


def test_at_the_ends_all_leave_at_once_or_go_where_they_are_likeliest_right():
    eta = np.array([[0.2, 0.9], [0.5, 0.9], [0.5, 0.8], [0.6, 0.1]])
    taken = ceiling.clairvoyant(eta, random_exits().costs, np.array([1.0, 0.0]))
    assert taken.tolist() == [[0, 0], [3, 0]], "of equal ones the cheapest"


def test_logistic_regression_finds_the_chances_that_made_the_data():
    draw = np.random.default_rng(0)
    x = np.concatenate([draw.normal([2, -40], [1, 9], (20_000, 2)), np.ones((20_000, 1))], axis=1)
    true = 1 / (1 + np.exp(-(0.8 * x[:, 0] + 0.1 * x[:, 1] + 2)))
    w = ceiling.fit_logistic(x, draw.random(20_000) < true)
    np.testing.assert_allclose(w, [0.8, 0.1, 2], atol=0.12)
    assert np.isfinite(ceiling.fit_logistic(x[:50], np.ones(50, bool))).all(), "one kind alone is no reason to break"
    assert np.isfinite(ceiling.fit_logistic(np.ones((4, 3)), np.array([1, 0, 1, 1], bool))).all()


def test_features_say_what_each_exit_thinks_of_each_answer():
    given_exits = random_exits(images=6, branches=2)
    answers = np.vstack([given_exits.predictions, given_exits.backbone])
    whole = np.stack([log_softmax(each, np.ones(6), 5) for each in answers]).astype(np.float16)
    found = ceiling.features(whole, answers)
    assert found.shape == (3, 6, 7)
    for e in range(3):
        for i in range(6):
            expected = [whole[j, i, answers[e, i]] for j in range(3)] + [whole[j, i, answers[j, i]] for j in range(3)] + [1]
            assert found[e, i].tolist() == [float(value) for value in expected]


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=12))
def test_auroc_is_the_share_of_pairs_in_order(pairs):
    scores, right = np.array([s for s, _ in pairs], float), np.array([r for _, r in pairs])
    wins = [1.0 if a > b else 0.5 if a == b else 0.0 for a in scores[right] for b in scores[~right]]
    found = ceiling.auroc(scores, right)
    assert (found is None) == (not wins) and (found is None or found == pytest.approx(np.mean(wins)))


# The report.

CASCADES = [CascadeRun("digits", "resnet18", "calexnet", "default", seed) for seed in (0, 1)]


def with_clairvoyant(points: pl.DataFrame, gain: float) -> pl.DataFrame:
    """Each method's clairvoyant: its points, `gain` above in accuracy."""
    bound = deployable(points).with_columns(policy=pl.lit("clairvoyant"), accuracy=(pl.col("accuracy") + gain).clip(0, 1))
    return pl.concat([points, bound])


def test_the_room_is_what_the_clairvoyant_is_ahead_of_the_best_policy():
    points = operating_points(TWO, policies=("p", "q"))
    found = rooms(with_clairvoyant(points.filter(pl.col("policy") != "q"), 0.01))
    assert found.keys() == set(TWO) and all(room == pytest.approx(0.01, abs=2e-3) for room in found.values())
    assert rooms(points) == {}


def test_what_answers_otherwise_at_the_end_is_not_what_the_clairvoyant_bounds():
    points = operating_points(TWO, policies=("p", "q"))
    run = {"config": {"policies": {"p": {"last": None}, "q": {"last": "combined"}}}}
    assert set(bounded(points, run)["policy"]) == set(points["policy"]) - {"q"} != set(points["policy"])
    assert bounded(points, {}).equals(points)


def test_clairvoyants_are_drawn_and_no_curve_of_a_policy_and_no_choice():
    points = operating_points(TWO)
    more = with_clairvoyant(points, 0.01)
    before, after = chart_data(points, curve_styles(points)), chart_data(more, curve_styles(more))
    assert after.curves.equals(before.curves) and after.front.equals(before.front) and not len(before.ceilings)
    assert set(after.ceilings["method"]) == set(TWO)
    assert curve_styles(more).equals(curve_styles(points)) and deployable(more).equals(deployable(points))
    page = build(more, {}).html
    assert "Dotted: the clairvoyant" in page and "Dotted: the clairvoyant" not in build(points, {}).html
    said = "one with <code>last: combined</code> may"
    run = {"config": {"policies": {name: {"last": "combined"} for name in deployable(more)["policy"].unique()}}}
    assert said in build(more, run).html and said not in page


def test_scores_are_averaged_over_cascades_and_counted_once_a_cascade():
    quality = {"confidence": [0.5, None], "margin": [0.7, 0.9]}
    other = {"confidence": [0.7, 0.8], "margin": [0.9, 0.9]}
    records = [
        (CASCADES[0], "p", {"auroc": quality}),
        (CASCADES[0], "q", {"auroc": quality}),
        (CASCADES[1], "p", {"auroc": other}),
    ]
    rows = score_quality(records)
    assert [(row["score"], [round(value, 9) for value in row["auroc"]]) for row in rows] == [
        ("confidence", [0.6, 0.8]),
        ("margin", [0.8, 0.9]),
    ]
    (method,) = score_table(rows, operating_points(TWO))["methods"]
    assert [cell["best"] for cell in method["cells"]] == [False, True] and method["room"] is None
    shown = build(operating_points(TWO), {"scores": [*rows, rows[0] | {"method": "reference", "auroc": [0.5, None]}]}).html
    assert "<b>0.800 0.900</b>" in shown and "0.600 0.800" in shown and "0.500 –" in shown and "no whole area" in shown


def test_promises_stand_beside_what_test_images_say():
    points = operating_points({"calexnet": 1.0}, seeds=(0, 1), policies=("risk",))
    test = points.filter(split="test", method="calexnet", policy="risk", variant=points["variant"][-1])
    alone = points.filter(method="backbone", split="test")["accuracy"][0]
    variant = test["variant"][0]
    cascades = [CascadeRun(test["dataset"][0], "resnet18", "calexnet", variant, seed) for seed in (0, 1)]
    common = {"risk": "drop", "confidence": 0.9, "images": 500}
    records = [
        (cascades[0], "risk", {"certificates": [common | {"bound": 0.5, "passed": 3}, common | {"bound": 0.01, "passed": 0, "needed": 900}]}),
        (cascades[1], "risk", {"certificates": [common | {"bound": 0.5, "passed": 2}, common | {"bound": 0.01, "passed": 0, "needed": None}]}),
    ]  # fmt: skip
    found = promises(records, points)
    row = test.filter(seed=0, point=0).row(0, named=True)
    assert found[0]["test_risk"] == pytest.approx(alone - row["accuracy"]) and found[0]["kept"] == (
        found[0]["test_risk"] <= 0.5
    )
    large, small = promise_rows(found)
    assert (large["certified"], large["of"], small["certified"], small["needed"]) == (2, 2, 0, 900)
    page = build(points, {"promises": found}).html
    assert "drop ≤ 50.0% with confidence 90%" in page and "about 900 images needed" in page
