"""Running a cascade: who leaves where and what is answered, beside plain loops; the oracle as a bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_exits import any_exits, exits, random_exits

from calex.policies.cpm import cpm_thresholds
from calex.simulation.cascade import leave, oracle, predict
from calex.simulation.exits import Exits

INF = math.inf


@st.composite
def exits_and_points(draw: st.DrawFn) -> tuple[Exits, np.ndarray]:
    """Exits, and thresholds (P, K, C) that often equal a score or are infinite."""
    given_exits = draw(any_exits(images=(1, 25)))
    shape = (draw(st.integers(1, 4)), len(given_exits.scores), given_exits.classes)
    values = st.one_of(st.integers(0, 5).map(lambda i: float(np.float32(i / 5))), st.sampled_from([INF, -INF]))
    flat = draw(st.lists(values, min_size=math.prod(shape), max_size=math.prod(shape)))
    return given_exits, np.array(flat).reshape(shape)


def leave_by_loops(given_exits: Exits, thresholds: np.ndarray) -> list[int]:
    taken = []
    for i in range(len(given_exits.labels)):
        for k in range(len(given_exits.scores)):
            if float(given_exits.scores[k, i]) >= thresholds[k, given_exits.predictions[k, i]]:
                taken.append(k)
                break
        else:
            taken.append(len(given_exits.scores))
    return taken


@given(exits_and_points())
def test_exits_and_answers_equal_plain_loops(drawn):
    given_exits, thresholds = drawn
    taken = leave(given_exits, thresholds)
    assert taken.dtype == np.uint8
    assert taken.tolist() == [leave_by_loops(given_exits, point) for point in thresholds]
    said = predict(given_exits, taken)
    for p, row in enumerate(taken.tolist()):
        for i, k in enumerate(row):
            spoken = given_exits.backbone[i] if k == len(given_exits.scores) else given_exits.predictions[k, i]
            assert said[p, i] == spoken


# Branch 1 answers 0, 1, 0, 1 and branch 2 answers 1, 1, 0, 0; the backbone answers 2 throughout.
FOUR = exits([[0, 1, 0, 1], [1, 1, 0, 0]], [[0.5, 0.5, 0.4, 0.2], [0.9, 0.1, 0.3, 0.3]], [1, 1, 0, 2], [2, 2, 2, 2], 3)


def test_exits_by_hand():
    thresholds = np.array(
        [
            [[0.5, 0.6, 0], [0.3, 0.2, 0]],  # 0.5 ≥ τ₀; 0.5 < τ₁, then 0.1 < τ₁; 0.4 < τ₀, then 0.3 ≥ τ₀ as float32; so too
            [[INF, -INF, 0], [INF, INF, 0]],  # only what branch 1 calls 1
            [[INF, INF, INF], [-INF, -INF, -INF]],  # all at branch 2
        ]
    )
    taken = leave(FOUR, thresholds)
    assert taken.tolist() == [[0, 2, 1, 1], [2, 0, 2, 0], [1, 1, 1, 1]]
    assert predict(FOUR, taken).tolist() == [[0, 2, 0, 0], [2, 1, 2, 1], [1, 1, 0, 0]]


def test_a_score_at_the_threshold_leaves_and_one_below_stays():
    score = float(FOUR.scores[0, 0])
    for threshold, exit_taken in ((score, 0), (np.nextafter(score, 1), 2), (np.nextafter(score, 0), 0)):
        assert leave(FOUR, np.array([[[threshold, INF, INF], [INF, INF, INF]]]))[0, 0] == exit_taken


def test_a_score_of_one_does_not_reach_infinity():
    sure = exits([[0]], [[1.0]], [0], [0], 1)
    assert leave(sure, np.array([[[INF]], [[1.0]]])).tolist() == [[1], [0]]


def test_the_threshold_is_that_of_the_class_predicted_not_of_the_label():
    labelled = exits([[1]], [[0.5]], [0], [0], 2)
    assert leave(labelled, np.array([[[0.1, 0.9]], [[0.9, 0.1]]])).tolist() == [[1], [0]]


def test_more_images_do_not_change_anyones_exit():
    many = random_exits(images=100)
    thresholds = cpm_thresholds(many, np.linspace(1, -2, 7))
    some = np.array([3, 77, 10])
    np.testing.assert_array_equal(leave(many.of(some), thresholds), leave(many, thresholds)[:, some])


def test_the_oracle_leaves_at_the_first_right_exit():
    # Branch 1 is right on image 2; branch 2 on images 1 and 3; image 4 (label 2) is left to the backbone.
    #                          label 1: 0✗ 1✓   1: 1✓   0: 0✓   2: ✗ ✗ backbone
    assert oracle(FOUR).tolist() == [[1, 0, 0, 2]]
    # By the backbone's answer, always 2, nobody is right before it.
    assert oracle(FOUR, "backbone").tolist() == [[2, 2, 2, 2]]


@given(any_exits(images=(1, 25)), st.sampled_from(["label", "backbone"]))
def test_the_oracle_equals_plain_loops(given_exits, correct):
    truth = given_exits.labels if correct == "label" else given_exits.backbone
    expected = []
    for i, wanted in enumerate(truth):
        right = [k for k in range(len(given_exits.scores)) if given_exits.predictions[k, i] == wanted]
        expected.append(right[0] if right else len(given_exits.scores))
    assert oracle(given_exits, correct).tolist() == [expected]


@given(exits_and_points())
def test_no_thresholds_answer_more_images_right_than_the_oracle(drawn):
    given_exits, thresholds = drawn

    def right(taken: np.ndarray) -> np.ndarray:
        return (predict(given_exits, taken) == given_exits.labels).sum(axis=1)

    assert (right(leave(given_exits, thresholds)) <= right(oracle(given_exits))).all()


@pytest.mark.parametrize("branches", [1, 2, 5])
def test_any_number_of_branches(branches):
    many = exits([[0] * 3] * branches, [[0.5] * 3] * branches, [0] * 3, [0] * 3, 1)
    only = np.where(np.eye(branches + 1, branches, dtype=bool), -INF, INF)[:, :, None]  # point p opens branch p alone
    assert leave(many, only).tolist() == [[k] * 3 for k in range(branches + 1)]
