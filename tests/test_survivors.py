"""Soft survivor weights: the equation in plain loops, its limits, and what the step says when few images are left."""

from __future__ import annotations

import argparse
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_exits import any_exits, exits, random_exits, write

from calex.plugins import complete, load, options_of
from calex.policies.cpm import cpm_thresholds
from calex.simulation import cascade
from calex.simulation.exits import Exits
from calex.steps import weigh_survivors
from calex.weightings import effective_sample_size
from calex.weightings.survivors import staying_probability, survival_probability, weights

INF = math.inf
grid = st.integers(0, 5).map(lambda i: np.float32(i / 5))
cuts = st.one_of(grid.map(float), st.sampled_from([INF, -INF]))
sharpnesses = st.sampled_from([0.0, 0.01, 0.1, 1.0, 30.0, INF])


def stay_by_hand(score: float, threshold: float, sharpness: float) -> float:
    if sharpness == INF:
        return 1.0
    if math.isinf(threshold):
        return 1.0 if threshold > 0 else 0.0
    if sharpness == 0:
        return 1.0 if score < threshold else 0.0
    return 1 / (1 + math.exp((score - threshold) / sharpness))  # = 1 − σ


@given(st.lists(st.tuples(grid, cuts), min_size=1, max_size=20), sharpnesses)
def test_the_chance_to_stay_equals_plain_loops(pairs, sharpness):
    scores, thresholds = np.array([s for s, _ in pairs]), np.array([t for _, t in pairs])
    expected = [stay_by_hand(float(s), t, sharpness) for s, t in pairs]
    np.testing.assert_allclose(staying_probability(scores, thresholds, sharpness), expected, rtol=1e-9, atol=1e-12)


def test_the_chance_to_stay_by_hand():
    at = np.array([0.5, 0.6, 0.4], np.float64)
    # σ(0) = 1/2; one sharpness above the threshold 1 − σ(1) = 1/(1 + e) = 0.26894; one below 1 − σ(−1) = 0.73106.
    np.testing.assert_allclose(staying_probability(at, np.full(3, 0.5), 0.1), [0.5, 0.2689414, 0.7310586], atol=1e-7)


@pytest.mark.parametrize("distance", [1.0, 10.0, 30.0, 50.0, 500.0])
def test_small_chances_keep_their_ratio(distance):
    """Survival is carried unclipped: of images that all leave almost surely, the least sure one still counts most."""
    found = staying_probability(np.array([distance]), np.array([0.0]), 1.0)[0]
    assert found == pytest.approx(1 / (1 + math.exp(distance)), rel=1e-9, abs=0)


def test_no_distance_is_too_far():
    far = np.array([0.0, 1.0])
    with np.errstate(invalid="raise", divide="raise"):
        np.testing.assert_array_equal(staying_probability(far, np.array([1.0, 0.0]), 1e-6), [1.0, 0.0])
        np.testing.assert_array_equal(staying_probability(far, np.array([INF, -INF]), 1e-6), [1.0, 0.0])


def test_a_negative_sharpness_has_no_meaning():
    with pytest.raises(ValueError, match="sharpness"):
        staying_probability(np.zeros(1), np.zeros(1), -0.1)


def test_a_softer_cut_moves_every_chance_towards_a_half():
    scores = np.linspace(0, 1, 11)
    distance = np.array([np.abs(staying_probability(scores, np.full(11, 0.45), b) - 0.5) for b in (0.01, 0.05, 0.2, 1.0, 10.0)])
    assert (np.diff(distance, axis=0) < 0).all()


@st.composite
def exits_and_thresholds(draw: st.DrawFn) -> tuple[Exits, np.ndarray]:
    given_exits = draw(any_exits(images=(1, 20)))
    shape = (len(given_exits.scores), given_exits.classes)
    flat = draw(st.lists(cuts, min_size=math.prod(shape), max_size=math.prod(shape)))
    return given_exits, np.array(flat).reshape(shape)


@given(exits_and_thresholds(), sharpnesses)
def test_survival_is_the_product_over_branches(drawn, sharpness):
    given_exits, thresholds = drawn
    expected = []
    for i in range(len(given_exits.labels)):
        u = 1.0
        for k in range(len(given_exits.scores)):
            threshold = thresholds[k, given_exits.predictions[k, i]]
            u *= stay_by_hand(float(given_exits.scores[k, i]), threshold, sharpness)
        expected.append(u)
    found = survival_probability(given_exits.scores, given_exits.predictions, thresholds, sharpness)
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


@given(exits_and_thresholds())
def test_sharpness_zero_is_exactly_who_is_left_in_the_cascade(drawn):
    given_exits, thresholds = drawn
    left = cascade.leave(given_exits, thresholds[None])[0] == len(given_exits.scores)
    u = survival_probability(given_exits.scores, given_exits.predictions, thresholds, 0.0)
    np.testing.assert_array_equal(u, left.astype(float))
    if left.any():
        np.testing.assert_allclose(weights(u, 0.0), left / left.mean())


@given(exits_and_thresholds())
def test_sharpness_infinity_weighs_all_the_same(drawn):
    given_exits, thresholds = drawn
    u = survival_probability(given_exits.scores, given_exits.predictions, thresholds, INF)
    np.testing.assert_array_equal(weights(u, 0.0), np.ones(len(given_exits.labels)))


def test_before_the_first_branch_everybody_survives():
    nobody = survival_probability(np.empty((0, 4)), np.empty((0, 4), np.int64), np.empty((0, 3)), 0.1)
    np.testing.assert_array_equal(nobody, np.ones(4))


def test_a_threshold_of_infinity_changes_nothing_and_minus_infinity_everything():
    given_exits = random_exits(images=50, classes=3, branches=2)
    thresholds = np.full((2, 3), 0.5)
    base = survival_probability(given_exits.scores[:1], given_exits.predictions[:1], thresholds[:1], 0.2)
    thresholds[1] = [INF, -INF, INF]
    u = survival_probability(given_exits.scores, given_exits.predictions, thresholds, 0.2)
    leaves = given_exits.predictions[1] == 1
    np.testing.assert_array_equal(u[~leaves], base[~leaves])
    np.testing.assert_array_equal(u[leaves], 0)


u_values = st.lists(st.integers(0, 10).map(lambda i: i / 10), min_size=1, max_size=20)


@given(u_values, st.sampled_from([0.0, 0.05, 0.5]))
def test_weights_equal_plain_loops(values, floor):
    kept = [max(value, floor) for value in values]
    expected = [1.0] * len(values) if sum(values) == 0 else [value / (sum(kept) / len(kept)) for value in kept]
    found = weights(np.array(values), floor)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.mean() == pytest.approx(1)


def test_weights_by_hand():
    # max(u, ¼) = 1, ½, ¼, ¼ with mean ½.
    np.testing.assert_array_equal(weights(np.array([1.0, 0.5, 0.25, 0.0]), 0.25), [2.0, 1.0, 0.5, 0.5])
    np.testing.assert_array_equal(weights(np.zeros(3), 0.0), np.ones(3))
    np.testing.assert_array_equal(weights(np.zeros((2, 3)), 0.25), np.ones((2, 3)))


def test_weights_have_mean_one_over_all_views_together():
    found = weights(np.array([[1.0, 0.5], [0.0, 0.5]]), 0.0)
    np.testing.assert_array_equal(found, [[2.0, 1.0], [0.0, 1.0]])


@given(u_values.filter(any))
def test_the_effective_sample_size_is_between_one_and_all(values):
    w = weights(np.array(values), 0.0)
    assert 1 - 1e-9 <= effective_sample_size(w) <= len(w) + 1e-9
    assert effective_sample_size(3 * w) == pytest.approx(effective_sample_size(w))


def test_the_effective_sample_size_by_hand():
    assert effective_sample_size(np.ones(7)) == 7
    assert effective_sample_size(np.array([0.0, 5.0, 0.0])) == 1
    assert effective_sample_size(np.array([3.0, 1.0])) == 1.6  # 16 / 10


def weighting(**changes: float) -> dict:
    return complete("weightings", {"name": "survivors", **changes}, "methods.m.weighting")


def test_the_weighting_calibrates_on_validation_and_weighs_training_images():
    validation, train = random_exits(0, images=200), random_exits(1, images=300)
    options = options_of(weighting(train_margin=0.25, sharpness=0.2, min_support=7))
    found = load("weightings", "survivors").survival(validation, train, "label", **options)
    thresholds = cpm_thresholds(validation, np.array([0.25]), "label", "survivors", 7)[0]
    expected = [
        math.prod(
            stay_by_hand(float(s[i]), t[p[i]], 0.2) for s, p, t in zip(train.scores, train.predictions, thresholds, strict=True)
        )
        for i in range(300)
    ]
    np.testing.assert_allclose(found, expected, rtol=1e-7)
    assert np.std(found) > 0


def test_only_weightings_that_look_back_make_a_chain():
    assert load("weightings", "survivors").SEQUENTIAL
    assert not load("weightings", "uniform").SEQUENTIAL


def weigh(folder, validation, views, capsys, **changes):
    paths = write(folder, {"val": [validation], "train": views})
    settings_ = {"weighting": weighting(**changes), "score": "confidence", "correct": "label"}
    weigh_survivors.run(argparse.Namespace(exits=paths, settings=settings_, out=folder / "weights.npy"))
    return np.load(folder / "weights.npy"), capsys.readouterr().err


def test_the_step_weighs_every_view_by_its_own_scores(tmp_path, capsys):
    validation, views = random_exits(0), [random_exits(1), random_exits(2)]
    for view in views:
        view.labels[:] = views[0].labels
    found, said = weigh(tmp_path, validation, views, capsys, floor=0.01)
    plugin = load("weightings", "survivors")
    u = np.stack([plugin.survival(validation, view, "label", **options_of(weighting())) for view in views])
    kept = np.maximum(u, 0.01)
    np.testing.assert_allclose(found, kept / kept.mean())
    assert found.shape == (2, 400)
    assert f"{found.sum() ** 2 / (found**2).sum():.0f} of 800 images" in said and "warning" not in said


def test_the_step_warns_when_nobody_survives(tmp_path, capsys):
    everybody = exits([[0] * 6], [[0.9] * 6], [0] * 6, [0] * 6, 2)  # all right: all leave
    found, said = weigh(tmp_path, everybody, [everybody], capsys)
    np.testing.assert_array_equal(found, np.ones((1, 6)))
    assert "warning: weigh-survivors 2: no training image survives the branches before: all weigh 1" in said


def test_the_step_warns_when_few_images_carry_the_weights(tmp_path, capsys):
    # One of a hundred training images is answered 1, which the backbone never says: only this one stays.
    everybody = exits([[0] * 6], [[0.9] * 6], [0] * 6, [0] * 6, 2)
    train = exits([[1] + [0] * 99], [[0.9] * 100], [0] * 100, [0] * 100, 2)
    found, said = weigh(tmp_path, everybody, [train], capsys, floor=0.0)
    assert found[0, 0] == 100 and not found[0, 1:].any()
    assert "worth 1 of 100 images" in said and "warning: weigh-survivors 2: the weights rest on few images" in said
