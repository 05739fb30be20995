"""The policies beside CPM: one threshold for all, and fixed shares; plain loops, limits, ties, cross-fitting."""

from __future__ import annotations

import argparse
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_exits import any_exits, exits, random_exits, write

from calex import plugins
from calex.plugins import complete, load, options_of
from calex.simulation import cascade, crossfit
from calex.simulation.evaluation import measure
from calex.simulation.exits import Exits, read
from calex.simulation.rule import calibrated, charged
from calex.steps import calibrate, evaluate

INF = math.inf
NAMES = ("global", "budgeted")
EVERY = [
    name for name in plugins.names("policies") if not plugins.constants("policies", name).get("OVER", False) and name != "cpm"
]
shares = st.builds(Fraction, st.integers(0, 20), st.just(20))


def swept(name: str, at: list[Fraction]) -> dict[str, np.ndarray]:
    return {{"global": "quantile", "budgeted": "deeper"}[name]: np.array([float(value) for value in at])}


def thresholds(name: str, given_exits: Exits, at: list[Fraction]) -> np.ndarray:
    return load("policies", name).thresholds(given_exits, swept(name, at), "label", steps=1)


def global_by_loops(given_exits: Exits, quantile: Fraction) -> float:
    if quantile == 0:
        return -INF
    pooled = sorted(float(score) for branch in given_exits.scores for score in branch)
    below = quantile * len(pooled)
    # The smallest score that has at least this many of the sorted scores before it.
    return next((score for place, score in enumerate(pooled) if place + 1 > below), INF)


def budgeted_by_loops(given_exits: Exits, deeper: Fraction) -> list[float]:
    branches, images = given_exits.scores.shape
    weights = [deeper**k * (1 - deeper) ** (branches - k) for k in range(branches + 1)]  # ∝ q^k
    here = list(range(images))
    found = []
    for k in range(branches):
        score = [float(s) for s in given_exits.scores[k]]
        share = weights[k] / sum(weights[k:]) if sum(weights[k:]) else Fraction(deeper == 0)
        possible = [(0, INF)]
        for t in sorted({score[i] for i in here}, reverse=True):
            possible.append((sum(score[i] >= t for i in here), t))
        number, threshold = min(possible, key=lambda option: (abs(option[0] - share * len(here)), option[0]))
        if number == len(here) and here:
            threshold = -INF
        found.append(threshold)
        here = [i for i in here if score[i] < threshold]
    return found


@given(any_exits(), shares)
def test_one_threshold_equals_plain_loops(given_exits, quantile):
    found = thresholds("global", given_exits, [quantile])
    assert found.shape == (1, len(given_exits.scores), given_exits.classes)
    assert np.unique(found).tolist() == [global_by_loops(given_exits, quantile)]


@given(any_exits(), shares)
def test_shares_equal_plain_loops(given_exits, deeper):
    found = thresholds("budgeted", given_exits, [deeper])
    assert found.shape == (1, len(given_exits.scores), given_exits.classes)
    assert (found == found[:, :, :1]).all(), "the same for every class"
    assert found[0, :, 0].tolist() == budgeted_by_loops(given_exits, deeper)


# Four images, two branches: eight scores.
EIGHT = exits([[0] * 4] * 2, [[0.1, 0.2, 0.3, 0.4], [0.5, 0.6, 0.7, 0.8]], [0] * 4, [0] * 4, 1)


def test_quantiles_by_hand():
    at = [Fraction(i, 8) for i in (0, 1, 4, 7, 8)]
    assert thresholds("global", EIGHT, at)[:, 0, 0].tolist() == [-INF, *map(np.float32, (0.2, 0.5, 0.8)), INF]


# A hundred images with a hundred scores, of which the first branch and the second hold different orders.
HUNDRED = exits(
    [[0] * 100] * 3,
    [[(37 * i + 11 * k) % 101 / 101 for i in range(1, 101)] for k in range(3)],
    [0] * 100,
    [0] * 100,
    1,
)


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (Fraction(1), [25, 25, 25, 25]),
        (Fraction(2), [7, 13, 27, 53]),  # 1 : 2 : 4 : 8 of 100 are 6.7, 13.3, 26.7, 53.3
        (Fraction(1, 2), [53, 27, 13, 7]),
        (Fraction(3), [2, 8, 22, 68]),  # 1 : 3 : 9 : 27 of 100 are 2.5, 7.5, 22.5, 67.5; half an image stays
    ],
)
def test_the_shares_of_msdnet_by_hand(q, expected):
    taken = cascade.leave(HUNDRED, thresholds("budgeted", HUNDRED, [q / (1 + q)]))
    assert np.abs(np.bincount(taken[0], minlength=4) - expected).max() <= 1


@given(any_exits(images=(1, 30)), st.sampled_from(NAMES))
def test_the_ends_are_the_first_branch_and_the_backbone(given_exits, name):
    policy = load("policies", name)
    at = policy.parameters(steps=4)
    taken = cascade.leave(given_exits, policy.thresholds(given_exits, at, "label", steps=4))
    assert (taken[0] == 0).all() and (taken[-1] == len(given_exits.scores)).all()


def test_small_and_large_q_come_near_the_ends():
    many = random_exits(images=300, levels=10**6)
    taken = cascade.leave(many, thresholds("budgeted", many, [Fraction(1, 1000), Fraction(999, 1000)]))
    assert (taken[0] == 0).mean() > 0.99 and (taken[1] == 3).mean() > 0.99


@given(any_exits(images=(1, 30)), st.lists(shares, min_size=2, max_size=6, unique=True))
def test_a_higher_quantile_only_ever_keeps_images_longer(given_exits, at):
    taken = cascade.leave(given_exits, thresholds("global", given_exits, sorted(at))).astype(int)
    assert (np.diff(taken, axis=0) >= 0).all()


@given(any_exits(images=(1, 30)), shares)
def test_equal_scores_of_those_who_remain_leave_together(given_exits, deeper):
    taken = cascade.leave(given_exits, thresholds("budgeted", given_exits, [deeper]))[0]
    for k, score in enumerate(given_exits.scores):
        assert not set(score[taken == k]) & set(score[taken > k])


def test_a_tie_goes_where_it_misses_the_share_least():
    tied = exits([[0] * 5], [[0.9, 0.8, 0.8, 0.8, 0.1]], [0] * 5, [0] * 5, 1)
    for deeper, number in ((Fraction(7, 10), 1), (Fraction(4, 10), 4), (Fraction(5, 10), 1)):  # 1.5, 3 and 2.5 wanted
        assert (cascade.leave(tied, thresholds("budgeted", tied, [deeper]))[0] == 0).sum() == number


@given(any_exits(images=(1, 30)), st.sampled_from(NAMES), shares)
def test_labels_play_no_part(given_exits, name, at):
    other = replace(given_exits, labels=np.roll(given_exits.labels, 1), backbone=np.roll(given_exits.backbone, 1))
    np.testing.assert_array_equal(thresholds(name, given_exits, [at]), thresholds(name, other, [at]))


@pytest.mark.parametrize("name", NAMES)
def test_the_default_sweep_is_as_long_as_that_of_cpm_and_leaves_no_gap_in_cost(name):
    policy, cpm = load("policies", name), load("policies", "cpm")
    block = options_of(complete("policies", {"name": name}, "policies.p"))
    at = policy.parameters(**block)
    ((values,), (margins,)) = (
        at.values(),
        cpm.parameters(**options_of(complete("policies", {"name": "cpm"}, "policies.p"))).values(),
    )
    assert len(values) == len(margins) and (np.diff(values) > 0).all()
    many = random_exits(images=5000)
    # Scores of their own for each, crowded at 1, as those of a sure network are: half of them lie above 0.87.
    doubt = np.random.default_rng(0).permuted(np.tile(np.arange(5000) / 5000, (3, 1)), axis=1)
    many = replace(many, scores=(1 - doubt**3).astype(np.float32))
    cost = measure(many, cascade.leave(many, policy.thresholds(many, at, "label", **block)))["flops_fraction"].to_numpy()
    assert np.abs(np.diff(cost)).max() < 0.05


@pytest.mark.parametrize("name", EVERY)
def test_cross_fitting_through_the_steps(name, tmp_path):
    val, test = random_exits(0, images=150), random_exits(1, images=130)
    paths = write(tmp_path, {"val": [val], "test": [test]})
    block = {"name": name, "steps": 6}
    chosen = {"policy": block, "score": "confidence", "correct": "label", "folds": 5}
    thresholds_file, out = tmp_path / "p.thresholds.parquet", tmp_path / "p.points.parquet"
    calibrate.run(argparse.Namespace(exits=paths, settings=chosen, out=thresholds_file))
    key = {"dataset": "d", "backbone": "b", "method": "m", "variant": "default", "policy": "p", "seed": 1}
    evaluate.run(argparse.Namespace(exits=paths, thresholds=thresholds_file, settings=chosen, key=key, out=out))
    policy, options = load("policies", name), options_of(complete("policies", block, "policies.p"))
    at, assigned = policy.parameters(**options), crossfit.assign_folds(val.backbone, 5)
    val, test = (charged(policy, read(paths, split, "confidence", whole=True), options) for split in ("val", "test"))
    rule, *by_fold = (calibrated(policy, val.of(assigned != f), at, "label", options) for f in (-1, *range(5)))
    points = pl.read_parquet(out)
    for split, rows in {
        "val": measure(val, crossfit.leave(val, assigned, by_fold)),
        "test": measure(test, rule.leave(test)),
    }.items():
        assert points.filter(split=split).select(rows.columns).equals(rows)
