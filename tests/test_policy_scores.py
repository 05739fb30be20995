"""Policies that make scores of the exits so far, or fit thresholds to labels: plain loops, limits, and what a running cascade sees."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from made_up_exits import any_exits, exits, log_softmax, random_exits

from calex import plugins
from calex.policies import _eenet, budgeted, eenet, stopping
from calex.policies._pooled import at_quantiles
from calex.simulation import cascade
from calex.simulation.evaluation import measure
from calex.simulation.exits import Exits, SoFar
from calex.simulation.rule import Rule, calibrated, charged

INF = math.inf
NAMES = [name for name in plugins.names("policies") if not plugins.constants("policies", name).get("OVER", False)]


def rule_of(name: str, given_exits: Exits, correct: str = "label", **options: object) -> Rule:
    policy = plugins.load("policies", name)
    block = plugins.options_of(plugins.complete("policies", {"name": name, **options}, "policies.p"))
    return calibrated(policy, charged(policy, given_exits, block), policy.parameters(**block), correct, block)


def whole(given_exits: Exits) -> Exits:
    """The same exits with a log-softmax that fits them."""
    each = zip(given_exits.predictions, given_exits.scores, strict=True)
    return replace(given_exits, log_probabilities=np.stack([log_softmax(*one, given_exits.classes) for one in each]))


# Of every policy.


@pytest.mark.parametrize("name", NAMES)
def test_a_cascade_that_runs_decides_as_one_over_stored_exits(name):
    """At each exit it has the outputs of the exits so far, of the images that came to it and no others."""
    val, test = (whole(random_exits(seed, images=120, classes=4)) for seed in (0, 1))
    rule = rule_of(name, val, steps=6)
    expected = rule.leave(test)
    taken = np.full(expected.shape, len(test.scores))
    for point in range(len(expected)):
        here, one = np.arange(120), rule.at(np.array([point]))
        for k in range(len(test.scores)):
            so_far = SoFar(test.predictions[: k + 1, here], test.scores[: k + 1, here], test.log_probabilities[: k + 1, here])
            ready = one.ready(so_far)[0]
            taken[point, here[ready]] = k
            here = here[~ready]
    np.testing.assert_array_equal(taken, expected)


@pytest.mark.parametrize("name", NAMES)
def test_points_reach_from_the_first_branch_to_the_backbone(name):
    val = whole(random_exits(0, images=200))
    cost = measure(val, rule_of(name, val, steps=6).leave(val))["exit_share"].to_list()
    assert [1.0, 0.0, 0.0, 0.0] in cost and [0.0, 0.0, 0.0, 1.0] in cost


@pytest.mark.parametrize("name", NAMES)
def test_it_calibrates_on_one_image_and_on_images_that_are_all_alike(name):
    for val in (exits([[1]] * 3, [[0.5]] * 3, [1], [1], 3), exits([[1] * 9] * 3, [[0.5] * 9] * 3, [1] * 9, [1] * 9, 3)):
        rule = rule_of(name, whole(val), steps=4)
        assert not np.isnan(rule.thresholds).any()
        assert rule.leave(whole(val)).max() <= 3


# Patience.


def patience_by_loops(answers: list[int]) -> list[int]:
    counts = [0]
    for before, now in pairwise(answers):
        counts.append(counts[-1] + 1 if now == before else 0)
    return counts


@given(any_exits(images=(1, 20)), st.integers(0, 3))
def test_patience_leaves_where_the_paper_says(given_exits, t):
    """Thresholds between two patiences are PABEE's own; within a patience the method's score decides."""
    policy = plugins.load("policies", "pabee")
    own = policy.scores(given_exits.so_far, {})
    branches = len(own)
    taken = cascade.leave(replace(given_exits, scores=own), np.full((1, branches, given_exits.classes), float(t)))[0]
    for i in range(len(given_exits.labels)):
        counts = patience_by_loops(given_exits.predictions[:, i].tolist())
        assert taken[i] == next((k for k in range(branches) if counts[k] >= t), branches)
        for k in range(branches):
            assert own[k, i] == counts[k] + float(given_exits.scores[k, i]) / 2


# Voting.


@given(any_exits(images=(1, 20)), st.sampled_from(["accuracy", "uniform"]), st.floats(0, 3))
def test_experts_vote_as_the_paper_says(given_exits, weights, alpha):
    policy = plugins.load("policies", "beem")
    learnt = policy.learn(given_exits, {}, "label", weights=weights)
    own = policy.scores(given_exits.so_far, learnt)
    taken = cascade.leave(replace(given_exits, scores=own), np.full((1, len(own), given_exits.classes), alpha))[0]
    right = given_exits.predictions == given_exits.labels
    for i in range(len(given_exits.labels)):
        total, left = 0.0, len(own)
        for k in range(len(own)):
            w = right[k].mean() if weights == "accuracy" else 1.0
            agrees = k > 0 and given_exits.predictions[k, i] == given_exits.predictions[k - 1, i]
            total = w * float(given_exits.scores[k, i]) + (total if agrees else 0.0)
            assert own[k, i] == pytest.approx(total, abs=1e-12)
            if own[k, i] >= alpha and left == len(own):
                left = k
        assert taken[i] == left


def test_without_agreement_votes_are_the_scores_alone():
    never = exits([[0, 0], [1, 1], [0, 0]], [[0.3, 0.6], [0.2, 0.9], [0.5, 0.1]], [0, 1], [0, 0], 2)
    policy = plugins.load("policies", "beem")
    own = policy.scores(never.so_far, policy.learn(never, {}, "label", weights="uniform"))
    np.testing.assert_array_equal(own, never.scores)


# Accuracy at the score.


def isotonic_by_loops(values: list[float], right: list[bool]) -> dict[float, float]:
    """The largest, over starts at or below a score, of the smallest mean up to an end at or above it."""
    distinct = sorted(set(values))
    groups = [[r for v, r in zip(values, right, strict=True) if v == score] for score in distinct]

    def mean(start: int, end: int) -> float:
        pooled = [r for group in groups[start : end + 1] for r in group]
        return sum(pooled) / len(pooled)

    last = len(distinct)
    return {
        score: max(min(mean(start, end) for end in range(place, last)) for start in range(place + 1))
        for place, score in enumerate(distinct)
    }


@given(any_exits(images=(1, 14)), st.floats(0.01, 0.99))
def test_required_accuracy_by_plain_loops(given_exits, alpha):
    policy = plugins.load("policies", "pcee")
    found = policy.thresholds(given_exits, {"accuracy": np.array([alpha])}, "label")[0]
    right = given_exits.predictions == given_exits.labels
    for k, scores in enumerate(given_exits.scores):
        accuracy = isotonic_by_loops(scores.tolist(), right[k].tolist())
        # A score whose accuracy is α up to rounding may fall on either side.
        sure = [score for score, a in accuracy.items() if a >= alpha + 1e-9]
        perhaps = [score for score, a in accuracy.items() if a >= alpha - 1e-9]
        assert min(perhaps, default=INF) <= found[k, 0] <= min(sure, default=INF)
        assert (found[k] == found[k, 0]).all()


# Agreement with the backbone.


@given(any_exits(images=(1, 20)), st.integers(0, 20))
def test_conformal_thresholds_by_plain_loops(given_exits, twentieths):
    epsilon = twentieths / 20
    policy = plugins.load("policies", "cats")
    found = policy.thresholds(given_exits, {"disagreement": np.array([epsilon])}, "label")[0]
    n, branches = len(given_exits.labels), len(given_exits.scores)
    highest = sorted(
        max([float(given_exits.scores[k, i]) for k in range(branches) if given_exits.predictions[k, i] != given_exits.backbone[i]],
            default=-INF)
        for i in range(n)
    )  # fmt: skip
    rank = math.ceil((n + 1) * (20 - twentieths) / 20)
    tau = -INF if rank == 0 else INF if rank > n else highest[rank - 1]
    taken = cascade.leave(given_exits, found[None])[0]
    for i in range(n):
        above = [k for k in range(branches) if float(given_exits.scores[k, i]) > tau]
        assert taken[i] == (above[0] if above else branches)


def test_new_images_disagree_as_seldom_as_was_bounded():
    """On average over many pairs of validation sets and new images, which is what it promises, and by not much less."""
    policy, epsilon = plugins.load("policies", "cats"), 0.1
    disagreed = []
    for seed in range(300):
        both = random_exits(seed, images=200, levels=1000)
        val, new = both.of(np.arange(100)), both.of(np.arange(100, 200))
        tau = policy.thresholds(val, {"disagreement": np.array([epsilon])}, "label")
        disagreed.append(1 - measure(new, cascade.leave(new, tau))["agreement"][0])
    error = np.std(disagreed) / math.sqrt(len(disagreed))
    assert epsilon / 3 < np.mean(disagreed) <= epsilon + 3 * error


# The best thresholds for a price.


def mean_reward(given_exits: Exits, taken: np.ndarray, price: float) -> np.ndarray:
    rows = measure(given_exits, taken)
    return ((1 - price) * rows["accuracy"] - price * rows["flops_fraction"]).to_numpy()


prices = st.sampled_from([0.0, 0.01, 0.1, 0.3, 0.5, 0.9, 1.0])


def as_starts(given_exits: Exits) -> np.ndarray:
    by_share = budgeted.thresholds(given_exits, {"deeper": np.arange(5) / 4}, "label")
    return np.concatenate([at_quantiles(given_exits, np.arange(5) / 4), by_share])


@given(any_exits(images=(1, 30)), prices)
def test_a_search_never_ends_below_any_of_its_starts(given_exits, price):
    starts = as_starts(given_exits)
    cuts = stopping.best_cuts(given_exits, np.array([price]), starts[:, :, 0], "label")
    found = np.repeat(cuts[:, :, None], given_exits.classes, axis=2)
    worth = mean_reward(given_exits, cascade.leave(given_exits, found), price)[0]
    assert worth >= mean_reward(given_exits, cascade.leave(given_exits, starts), price).max() - 1e-9


@given(any_exits(images=(1, 12)), prices)
def test_no_threshold_alone_can_be_moved_to_gain(given_exits, price):
    cuts = stopping.best_cuts(given_exits, np.array([price]), as_starts(given_exits)[:, :, 0], "label")[0]
    options = [[-INF, *sorted(set(scores.tolist())), INF] for scores in given_exits.scores]
    moved = np.array([[*cuts[:k], cut, *cuts[k + 1 :]] for k in range(len(cuts)) for cut in options[k]])
    taken = cascade.leave(given_exits, np.repeat(np.vstack([cuts, moved])[:, :, None], given_exits.classes, axis=2))
    worth = mean_reward(given_exits, taken, price)
    assert worth[0] >= worth.max() - 1e-9


@given(any_exits(images=(1, 25), branches=1), prices)
def test_one_branch_gets_the_best_threshold_that_there_is(given_exits, price):
    cuts = stopping.best_cuts(given_exits, np.array([price]), as_starts(given_exits)[:, :, 0], "label")[0]
    every = [-INF, *sorted(set(given_exits.scores[0].tolist())), INF]
    values = np.array([[[cut] * given_exits.classes] for cut in [float(cuts[0]), *every]])
    worth = mean_reward(given_exits, cascade.leave(given_exits, values), price)
    assert worth[0] == pytest.approx(worth[1:].max(), abs=1e-9)


def test_two_branches_reach_the_best_pair_on_most_images():
    """Coordinate ascent has no promise of the best pair; from these starts it nearly always finds it."""
    best = 0
    for seed in range(20):
        given_exits = random_exits(seed, images=60, classes=2, branches=2, levels=8)
        cuts = stopping.best_cuts(given_exits, np.array([0.3]), as_starts(given_exits)[:, :, 0], "label")[0]
        levels = [-INF, *(np.arange(9) / 8).astype(np.float32).tolist(), INF]
        pairs = np.array([*map(list, product(levels, levels)), cuts.tolist()])
        worth = mean_reward(given_exits, cascade.leave(given_exits, np.repeat(pairs[:, :, None], 2, axis=2)), 0.3)
        best += worth[-1] >= worth.max() - 1e-9
    assert best >= 16


def test_its_points_hold_those_of_the_policies_that_it_starts_from():
    val = random_exits(0, images=300, levels=100)
    mine, others = rule_of("stopping", val, steps=8), [rule_of(name, val, steps=24) for name in ("global", "budgeted")]
    kept = {each.tobytes() for each in mine.thresholds}
    assert all(each.tobytes() in kept for other in others for each in other.thresholds)


# Decisions learnt from all scores and answers so far.


@given(any_exits(images=(2, 12)), prices)
def test_gains_are_regressed_backwards_on_what_was_realised(given_exits, price):
    """By plain loops: one least squares a branch, with the ridge as rows of its own."""
    policy = plugins.load("policies", "stopping_features")
    at = {"sweep": np.array(["price"]), "at": np.array([price])}
    learnt = policy.learn(given_exits, at, "label", ridge=3.0)
    branches, images = given_exits.scores.shape
    cost = given_exits.costs.by_exit() / given_exits.costs.backbone
    answers = np.vstack([given_exits.predictions, given_exits.backbone])
    reward = [
        [(1 - price) * (answers[k, i] == given_exits.labels[i]) - price * cost[k] for i in range(images)]
        for k in range(branches + 1)
    ]
    worth = list(reward[branches])
    for k in reversed(range(branches)):
        rows = []
        for i in range(images):
            so_far = [float(given_exits.scores[j, i]) for j in range(k + 1)]
            agree = [float(answers[j, i] == answers[k, i]) for j in range(k)]
            rows.append(
                [1.0, *so_far, so_far[-1] ** 2, *agree, *(float(answers[k, i] == c) for c in range(given_exits.classes))]
            )
        dense = len(rows[0]) - given_exits.classes
        ridge = np.diag(np.sqrt(np.append(np.full(dense, 1e-6), np.full(given_exits.classes, 3.0))))
        gain = [reward[k][i] - worth[i] for i in range(images)]
        w = np.linalg.lstsq(np.vstack([rows, ridge]), np.append(gain, np.zeros(len(ridge))), rcond=None)[0]
        fitted = np.array(rows) @ w
        np.testing.assert_allclose(np.array(rows) @ learnt[f"branch{k + 1}"][0], fitted, atol=1e-4)
        assume(np.abs(fitted).min() > 1e-3)  # else rounding decides
        worth = [reward[k][i] if fitted[i] >= 0 else worth[i] for i in range(images)]


def test_it_learns_for_which_classes_a_branch_is_right():
    """One branch, whose score says nothing: it is right for one class and wrong for the other."""
    draw = np.random.default_rng(0)
    said = draw.integers(0, 2, 400)
    labels = np.where(said == 0, 0, draw.integers(0, 2, 400))
    one = exits([said.tolist()], [draw.random(400).round(2).tolist()], labels.tolist(), labels.tolist(), 2)
    rule = rule_of("stopping_features", one)
    taken = rule.leave(one)
    as_should_be = np.where(said == 0, 0, 1)
    assert any((each == as_should_be).all() for each in taken)
    plain = rule_of("stopping", one).leave(one)
    assert not any((each == as_should_be).all() for each in plain)


def test_its_scores_are_paid_for():
    policy = plugins.load("policies", "stopping_features")
    val = random_exits(0, images=50)
    paid = charged(policy, val, {}).costs
    assert [b - a for a, b in zip(val.costs.head, paid.head, strict=True)] == [2 * 3 + 1, 2 * 5 + 1, 2 * 7 + 1]
    assert paid.to_tap == val.costs.to_tap and paid.backbone == val.costs.backbone


# EENet.


def eenet_batch(seed: int) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    draw = np.random.default_rng(seed)
    own = [draw.random((7, 5)) for _ in range(3)]
    parameters = _eenet.initial(2, [5, 6, 7], hidden=4)
    parameters = {name: value + 0.02 * draw.normal(size=value.shape) for name, value in parameters.items()}
    return own, draw.random((3, 7)) < 0.5, np.array([0.2, 0.5, 0.8, 1.0]), np.array([0.4, 0.7]), parameters


def eenet_by_loops(own, right, cost, budget, parameters, p, frozen=None):
    """The loss of one budget. frozen: (B, K) weights of the scores' loss, which training does not look through."""
    branches, images = right.shape
    q, pi = np.zeros((images, branches)), np.zeros((images, branches + 1))
    for i in range(images):
        raw = []
        for k in range(branches):
            x = np.concatenate([own[k][i], q[i, :k]])
            hidden = np.maximum(x @ parameters[f"first{k}"][p] + parameters[f"first_bias{k}"][p], 0)
            raw.append(hidden @ parameters[f"second{k}"][p] + parameters["bias"][p, k])
            q[i, k] = min(max(x @ parameters[f"score{k}"][p], 0), 1)
        raw = np.exp([*raw, parameters["bias"][p, -1]])
        pi[i] = raw / raw.sum()
    safe = np.clip(q, 0.01, 0.99)
    weight = pi[:, :branches] / pi[:, :branches].sum(axis=0) if frozen is None else frozen
    cross = sum(
        -weight[i, k] * math.log(safe[i, k] if right[k, i] else 1 - safe[i, k]) for i in range(images) for k in range(branches)
    )
    everyone = np.column_stack([safe, np.ones(images)])
    normal = everyone / everyone.sum(axis=1, keepdims=True)
    divergence = (normal * np.log(normal / pi)).sum(axis=1).mean()
    return cross + 1e-3 * divergence + 1e-2 * abs((pi @ cost).mean() - budget) / budget, weight


def test_the_loss_and_its_gradient_are_the_papers():
    own, right, cost, budgets, parameters = eenet_batch(0)
    losses, gradient = _eenet.loss_and_gradient(parameters, own, right, cost, budgets)
    assert all(((q > 0.01) & (q < 0.99)).all() for q in _eenet.scores(parameters, own)), "nothing is clipped"
    for p in range(2):
        expected, weight = eenet_by_loops(own, right, cost, budgets[p], parameters, p)
        assert losses.total[p] == pytest.approx(expected)
        for name, value in parameters.items():
            for place in [(p, *each) for each in np.ndindex(value.shape[1:])][::3]:
                moved = []
                for step in (1e-6, -1e-6):
                    changed = {**parameters, name: value.copy()}
                    changed[name][place] += step
                    moved.append(eenet_by_loops(own, right, cost, budgets[p], changed, p, weight)[0])
                assert gradient[name][place] == pytest.approx((moved[0] - moved[1]) / 2e-6, abs=2e-5)


def test_a_score_that_is_clipped_comes_back_but_goes_no_further():
    own, right, cost, budgets, parameters = eenet_batch(1)
    for k in range(3):
        parameters[f"score{k}"][:] = 9.0  # all scores are 1
    _, of_wrong = _eenet.loss_and_gradient(parameters, own, np.zeros_like(right), cost, budgets)
    _, of_right = _eenet.loss_and_gradient(parameters, own, np.ones_like(right), cost, budgets)
    assert (of_wrong["score2"][:, :5] > 0).all(), "wrong answers draw them down"
    assert (of_right["score2"][:, :5] == 0).all()


def test_the_assignment_comes_near_the_budget_and_thresholds_keep_to_its_shares():
    val = whole(random_exits(0, images=600, classes=4, levels=400))
    policy = plugins.load("policies", "eenet")
    own, cost = eenet.own_inputs(val.so_far), val.costs.by_exit() / 100
    budgets = np.array([0.3, 0.5, 0.8])
    trained = _eenet.train(own, val.predictions == val.labels, cost, budgets, 8, 60, 128, 0.01, 0.01)
    shares, _ = _eenet.assignments(trained, own, _eenet.scores(trained, own))
    assert np.abs(shares.mean(axis=1) @ cost - budgets).max() < 0.03
    q = np.random.default_rng(0).random((3, 2000))
    for share in ([0.25, 0.25, 0.25, 0.25], [0.0, 0.5, 0.0, 0.5], [1.0, 0.0, 0.0, 0.0]):
        taken = cascade.leave(
            replace(val, scores=q, predictions=np.zeros((3, 2000), int)),
            np.repeat(eenet.cut_shares(q, np.array(share))[None, :, None], 4, 2),
        )
        np.testing.assert_allclose(np.bincount(taken[0], minlength=4) / 2000, share, atol=0.001)
    assert policy.flops(3, 4).tolist() == [12, 14, 16]


def test_those_who_fit_and_those_who_cut_are_other_images():
    fit, cut = eenet.halves(11)
    assert sorted([*fit, *cut]) == list(range(11)) and len(fit) == 5
    val = whole(random_exits(0, images=80, classes=3))
    changed = replace(val, labels=val.labels.copy())
    changed.labels[eenet.halves(80)[1]] = (changed.labels[eenet.halves(80)[1]] + 1) % 3
    learnt = [rule_of("eenet", each, steps=3, epochs=3).learnt for each in (val, changed)]
    for name in learnt[0]:
        np.testing.assert_array_equal(learnt[0][name], learnt[1][name])
