"""Thresholds from class precision margins: golden values worked by hand, and plain loops in exact fractions."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from conftest import examples
from hypothesis import example, given
from hypothesis import strategies as st
from made_up_exits import any_exits, exits, random_exits

from calex.plugins import complete, load, options_of
from calex.policies.cpm import class_precision, cpm_thresholds, leaving_share, required_precision
from calex.simulation import cascade
from calex.simulation.crossfit import assign_folds
from calex.simulation.exits import Exits
from calex.simulation.threshold_table import parameters_as_json

INF = math.inf
margins = st.one_of(
    st.builds(Fraction, st.integers(-40, 20), st.just(20)),
    st.sampled_from([Fraction(m) for m in (-2, -1, 0, 1)]),
)


def bar_by_hand(margin: Fraction, precision: Fraction | None) -> Fraction | None:
    if precision is None:
        return None
    if margin >= 0:
        return (1 - margin) * precision
    if margin >= -1:
        return 1 - (1 + margin) * (1 - precision)
    return Fraction(1)


def precision_by_loops(answers: list[int], truth: list[int], label: int) -> Fraction | None:
    hits = [t == label for a, t in zip(answers, truth, strict=True) if a == label]
    return Fraction(sum(hits), len(hits)) if hits else None


def threshold_by_loops(candidates: list[tuple[float, bool]], bar: Fraction | None, margin: Fraction, min_support: int) -> float:
    """One class of one branch: (score, right) of the images that reach it and are predicted as that class."""
    if bar is None:
        return INF
    if bar <= 0:
        return -INF
    steps = sorted({score for score, _ in candidates})

    def leaving(threshold: float) -> list[bool]:
        return [right for score, right in candidates if score >= threshold]

    good = [t for t in steps if len(leaving(t)) >= min_support and Fraction(sum(leaving(t)), len(leaving(t))) >= bar]
    if not good:
        return INF
    if margin >= -1:
        return -INF if good[0] == steps[0] else good[0]
    allowed = (2 + margin) * len(leaving(good[0]))
    fitting = [t for t in steps if len(leaving(t)) <= allowed]
    return fitting[0] if fitting else INF


def thresholds_by_loops(given: Exits, margin: Fraction, correct: str, population: str, min_support: int) -> list[list[float]]:
    truth = (given.labels if correct == "label" else given.backbone).tolist()
    answers = given.backbone.tolist()
    here = list(range(len(truth)))
    table = []
    for prediction, score in zip(given.predictions.tolist(), given.scores.tolist(), strict=True):
        row = []
        for label in range(given.classes):
            candidates = [(score[i], prediction[i] == truth[i]) for i in here if prediction[i] == label]
            bar = bar_by_hand(margin, precision_by_loops(answers, truth, label))
            row.append(threshold_by_loops(candidates, bar, margin, min_support))
        if population == "survivors":
            here = [i for i in here if not score[i] >= row[prediction[i]]]
        table.append(row)
    return table


@examples(300)
@given(
    any_exits(),
    st.lists(margins, min_size=1, max_size=3),
    st.sampled_from(["label", "backbone"]),
    st.sampled_from(["survivors", "all"]),
    st.integers(1, 6),
)
def test_thresholds_equal_plain_loops(given_exits, at, correct, population, min_support):
    found = cpm_thresholds(given_exits, np.array([float(m) for m in at]), correct, population, min_support)
    expected = [thresholds_by_loops(given_exits, m, correct, population, min_support) for m in at]
    np.testing.assert_array_equal(found, np.array(expected))


@pytest.mark.parametrize("population", ["survivors", "all"])
@pytest.mark.parametrize("seed", [0, 1])
def test_thresholds_of_many_images_equal_plain_loops(seed, population):
    many = random_exits(seed, images=300)
    at = [Fraction(i, 10) for i in range(-20, 11, 3)]
    found = cpm_thresholds(many, np.array([float(m) for m in at]), "label", population, 5)
    np.testing.assert_array_equal(found, np.array([thresholds_by_loops(many, m, "label", population, 5) for m in at]))
    assert np.isfinite(found).mean() > 0.2, "of the thresholds, too few are scores for this to say much"


def one_class(scores: list[float], right: list[bool], others: int = 0) -> Exits:
    """A branch that always answers 0, beside a backbone that always answers 0: Pr_0 is the branch's own precision."""
    return exits([[0] * len(scores)], [scores], [0 if good else 1 for good in right], [0] * len(scores), 2)


# Scores 0.9 ✓, 0.8 ✓, 0.7 ✗, 0.6 ✓, 0.5 ✗: rates from the top are 1, 1, 2/3, 3/4, 3/5, and Pr_0 = 3/5.
LADDER = one_class([0.9, 0.8, 0.7, 0.6, 0.5], [True, True, False, True, False])


@pytest.mark.parametrize(
    ("margin", "threshold"),
    [
        (1.0, -INF),  # bar 0
        (0.0, -INF),  # bar 3/5: all of them are just as precise as that
        (-0.25, 0.6),  # bar 1 − ¾·⅖ = 0.7 ≤ 3/4
        (-0.375, 0.6),  # bar 1 − ⅝·⅖ = 3/4, reached exactly
        (-0.5, 0.8),  # bar 1 − ½·⅖ = 0.8
        (-1.0, 0.8),  # bar 1
        (-1.4, 0.9),  # of the 2 that leave at bar 1, the share 0.6 is 1.2: one image
        (-1.6, INF),  # the share 0.4 is 0.8: none
        (-2.0, INF),
    ],
)
def test_thresholds_by_hand(margin, threshold):
    found = cpm_thresholds(LADDER, np.array([margin]), min_support=1)
    assert found.shape == (1, 1, 2)
    assert found[0, 0, 0] == np.float32(threshold)
    assert found[0, 0, 1] == INF  # the backbone never answers 1


def test_a_lower_score_may_qualify_after_a_higher_one_did_not():
    # Bar 3/4 is missed at 0.7 (2 of 3) and reached again at 0.6 (3 of 4): the smallest such score counts.
    assert cpm_thresholds(LADDER, np.array([-0.375]), min_support=1)[0, 0, 0] == np.float32(0.6)


def test_fewer_than_min_support_are_not_believed():
    #  At bar 1 two images would leave, at bar 3/4 four.
    found = cpm_thresholds(LADDER, np.array([-0.375, -1.0]), min_support=3)[:, 0, 0]
    assert found.tolist() == [np.float32(0.6), INF]
    assert cpm_thresholds(LADDER, np.array([0.0]), min_support=6)[0, 0, 0] == INF


def test_a_bar_of_zero_asks_for_no_support():
    assert cpm_thresholds(LADDER, np.array([1.0]), min_support=6)[0, 0, 0] == -INF
    # A class that the backbone never gets right has Pr = 0, and so bar 0 at every m ≥ 0.
    hopeless = one_class([0.9, 0.8], [False, False])
    assert cpm_thresholds(hopeless, np.array([1.0, 0.5, 0.0]), min_support=6)[:, 0, 0].tolist() == [-INF] * 3
    assert cpm_thresholds(hopeless, np.array([-0.25]), min_support=1)[0, 0, 0] == INF


def test_equal_scores_leave_or_stay_together():
    # 0.9 ✓ and then three at 0.8: ✓ ✓ ✗. Two right ones of the tie alone would reach bar 1; the tie as a whole does not.
    tied = one_class([0.8, 0.9, 0.8, 0.8], [True, True, True, False])
    assert cpm_thresholds(tied, np.array([-1.0]), min_support=1)[0, 0, 0] == np.float32(0.9)
    assert cpm_thresholds(tied, np.array([-1.0]), min_support=2)[0, 0, 0] == INF
    # Nor does the kept share cut a tie: of four that leave at bar 1, three quarters are three, but three are tied.
    right = one_class([0.8, 0.9, 0.8, 0.8], [True] * 4)
    assert cpm_thresholds(right, np.array([-1.25]), min_support=1)[0, 0, 0] == np.float32(0.9)


def test_all_right_leave_at_bar_one():
    assert cpm_thresholds(one_class([0.1, 0.9], [True, True]), np.array([-1.0]), min_support=1)[0, 0, 0] == -INF


def test_a_class_that_the_backbone_never_predicts_never_leaves():
    never = exits([[0, 1, 1, 1]], [[0.9, 0.9, 0.9, 0.9]], [0, 1, 1, 1], [0, 0, 0, 0], 2)
    found = cpm_thresholds(never, np.linspace(1, -2, 13), min_support=1)
    assert (found[:, 0, 1] == INF).all()
    assert found[0, 0, 0] == -INF


def test_a_class_that_the_branch_never_predicts_has_nobody_to_qualify():
    never = exits([[0, 0, 0]], [[0.9, 0.9, 0.9]], [0, 0, 1], [0, 0, 1], 2)
    assert cpm_thresholds(never, np.array([0.0, -1.0]), min_support=1)[:, 0, 1].tolist() == [INF, INF]


# Branch 1 is sure of four images, and right on just these. Branch 2 is right on the same four, and sure of a fifth one.
# The backbone answers 0 for five images and is right on four of them: Pr_0 = 4/5.
EASY_FIRST = exits(
    [[0] * 6, [0] * 6],
    [[0.9, 0.9, 0.9, 0.9, 0.1, 0.1], [0.9, 0.9, 0.9, 0.9, 0.9, 0.1]],
    [0, 0, 0, 0, 1, 1],
    [0, 0, 0, 0, 1, 0],
    2,
)


def test_survivors_are_judged_by_themselves_while_all_images_flatter():
    # m = 1/8: bar 0.7. Branch 1: 4 of 4 at 0.9, 4 of 6 in all. Branch 2 on all images: 4 of 5 at 0.9, 4 of 6 in all;
    # but only the two on which it is wrong ever reach it.
    margin = np.array([0.125])
    point_nine = np.float32(0.9)
    assert cpm_thresholds(EASY_FIRST, margin, population="all", min_support=1)[0, :, 0].tolist() == [point_nine, point_nine]
    assert cpm_thresholds(EASY_FIRST, margin, population="survivors", min_support=1)[0, :, 0].tolist() == [point_nine, INF]


def test_nobody_reaches_a_branch():
    # m = 0.17: bar 0.664 < 4/6, so all leave at branch 1, and there is nobody to judge branch 2 by.
    assert cpm_thresholds(EASY_FIRST, np.array([0.17]), min_support=1)[0, :, 0].tolist() == [-INF, INF]
    # m = 1: a bar of 0 lets everybody leave anywhere, whoever may come.
    assert cpm_thresholds(EASY_FIRST, np.array([1.0]), min_support=1)[0, :, 0].tolist() == [-INF, -INF]


def test_correct_can_mean_as_the_backbone_answers():
    # The branch repeats the backbone, both wrong throughout: by label Pr is 0, by backbone it is 1 and the branch perfect.
    echo = exits([[0, 0, 0]], [[0.3, 0.2, 0.1]], [1, 1, 1], [0, 0, 0], 2)
    assert cpm_thresholds(echo, np.array([-0.5]), "label", min_support=1)[0, 0, 0] == INF
    assert cpm_thresholds(echo, np.array([-0.5]), "backbone", min_support=1)[0, 0, 0] == -INF


@given(any_exits(images=(1, 30)), st.integers(1, 4))
def test_at_margin_minus_two_nobody_leaves_and_at_one_whoever_can(given_exits, min_support):
    found = cpm_thresholds(given_exits, np.array([1.0, -2.0]), min_support=min_support)
    assert (found[1] == INF).all()
    predicted = np.isin(np.arange(given_exits.classes), given_exits.backbone)
    assert (found[0][:, predicted] == -INF).all() and (found[0][:, ~predicted] == INF).all()


@given(any_exits(images=(1, 30)), st.lists(margins, min_size=2, max_size=6, unique=True), st.integers(1, 4))
def test_over_all_images_a_lower_margin_only_ever_keeps_images_longer(given_exits, at, min_support):
    ordered = np.array(sorted((float(m) for m in at), reverse=True))
    taken = cascade.leave(given_exits, cpm_thresholds(given_exits, ordered, "label", "all", min_support)).astype(int)
    assert (np.diff(taken, axis=0) >= 0).all()


@given(any_exits(images=(1, 30)), margins.filter(lambda m: -1 <= m < 1))
def test_who_leaves_is_as_precise_as_the_bar(given_exits, margin):
    found = cpm_thresholds(given_exits, np.array([float(margin)]), min_support=2)
    taken = cascade.leave(given_exits, found)[0]
    for k, prediction in enumerate(given_exits.predictions):
        for label in range(given_exits.classes):
            hits = [int(given_exits.labels[i]) == label for i in np.flatnonzero((taken == k) & (prediction == label))]
            bar = bar_by_hand(margin, precision_by_loops(given_exits.backbone.tolist(), given_exits.labels.tolist(), label))
            if hits and bar is not None and bar > 0:
                assert Fraction(sum(hits), len(hits)) >= bar and len(hits) >= 2


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=20))
@example([])
def test_class_precision_equals_plain_loops(pairs):
    answers, truth = [a for a, _ in pairs], [t for _, t in pairs]
    found = class_precision(np.array(answers, np.int64), np.array(truth, np.int64), 5)
    for label in range(5):
        precision = precision_by_loops(answers, truth, label)
        assert math.isnan(found[label]) if precision is None else found[label] == float(precision)


def test_bars_by_hand():
    precision = np.array([0.8, 1.0, 0.0, np.nan])
    nan = np.nan
    for margin, expected in {
        1.0: [0, 0, 0, nan],
        0.25: [0.6, 0.75, 0, nan],
        0.0: [0.8, 1, 0, nan],
        -0.5: [0.9, 1, 0.5, nan],
        -1.0: [1, 1, 1, nan],
        -1.5: [1, 1, 1, nan],
        -2.0: [1, 1, 1, nan],
    }.items():
        np.testing.assert_allclose(required_precision(margin, precision), expected, atol=1e-15)
    assert [leaving_share(m) for m in (1.0, 0.0, -1.0, -1.25, -2.0)] == [1, 1, 1, 0.75, 0]


@pytest.mark.parametrize("margin", [1.001, -2.001, np.nan, np.inf])
def test_margins_outside_the_range_have_no_meaning(margin):
    with pytest.raises(ValueError, match="margin"):
        required_precision(margin, np.array([0.5]))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(2, 5), st.integers(0, 3))
def test_folds_are_balanced_overall_and_within_each_class(labels, count, seed):
    labels = np.array(labels)
    assigned = assign_folds(labels, count, seed)
    assert np.ptp(np.bincount(assigned, minlength=count)) <= 1 and len(np.bincount(assigned, minlength=count)) == count
    for label in np.unique(labels):
        assert np.ptp(np.bincount(assigned[labels == label], minlength=count)) <= 1
    np.testing.assert_array_equal(assigned, assign_folds(labels, count, seed))


def test_folds_are_shuffled():
    labels = np.zeros(100, np.int64)
    assert not np.array_equal(assign_folds(labels, 5, seed=0), assign_folds(labels, 5, seed=1))
    assert len(np.unique(np.diff(assign_folds(labels, 5)))) > 2


@pytest.mark.parametrize("steps", [1, 4, 40])
def test_the_policy_sweeps_the_whole_curve_cheapest_first(steps):
    swept = load("policies", "cpm").parameters(steps=steps)["margin"].tolist()
    assert len(swept) == 3 * steps + 1
    assert {1.0, 0.0, -1.0, -2.0} <= set(swept)
    assert all(a > b for a, b in itertools.pairwise(swept))
    assert swept[0] == 1 and swept[-1] == -2


def test_zero_is_spelled_as_zero():
    spelled = parameters_as_json(load("policies", "cpm").parameters(steps=4))
    assert '{"margin":0.0}' in spelled


def test_the_policy_hands_its_options_on():
    policy = load("policies", "cpm")
    many, at = random_exits(3, images=120), [0.25, -0.25]
    swept = {"margin": np.array(at)}
    for population in ("survivors", "all"):
        for min_support in (1, 9):
            block = complete("policies", {"name": "cpm", "population": population, "min_support": min_support}, "policies.p")
            found = policy.thresholds(many, swept, "label", **options_of(block))
            np.testing.assert_array_equal(found, cpm_thresholds(many, np.array(at), "label", population, min_support))
