"""Certified operating points: exact tests against plain sums, and promises that are kept in simulated worlds and a real one."""

from __future__ import annotations

import argparse
import copy
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from conftest import REPOSITORY
from hypothesis import given
from hypothesis import strategies as st
from made_up_exits import random_exits, write
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from calex import config, plugins
from calex.__main__ import main
from calex.policies import risk
from calex.policies._certificates import (
    Counts,
    critical_drop,
    disagreement_p,
    drop_p,
    fixed_sequence,
    images_needed,
    p_value,
    rejected,
    score_statistic,
)
from calex.simulation.cost import Costs
from calex.simulation.exits import Exits
from calex.simulation.rule import Rule, calibrated
from calex.steps import calibrate as calibrate_step
from calex.steps import evaluate
from calex.steps.certify import settings_of
from calex.workflow import job_settings, sources
from calex.workflow.settings_argument import Settings

DELTA = 0.1


# The tests.


@given(st.integers(1, 40), st.integers(0, 40), st.sampled_from([0.01, 0.05, 0.3]))
def test_the_binomial_tail_is_the_plain_sum(n, e, epsilon):
    e = min(e, n)
    expected = sum(math.comb(n, i) * epsilon**i * (1 - epsilon) ** (n - i) for i in range(e + 1))
    assert disagreement_p(e, n, epsilon) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("n", "most"), [(229, -1), (230, 0), (400, 1), (1000, 5), (5000, 40), (10000, 86)])
def test_how_many_disagreements_may_be_certified_at_one_percent(n, most):
    assert most < 0 or disagreement_p(most, n, 0.01) <= DELTA
    assert disagreement_p(most + 1, n, 0.01) > DELTA


@pytest.mark.parametrize(("n", "epsilon"), [(6, 0.2), (15, 0.05)])
def test_the_p_value_of_a_drop_is_the_largest_chance_of_a_statistic_as_small(n, epsilon):
    """By plain loops over every outcome and a fine grid of gains."""
    outcomes = [(h, g) for h in range(n + 1) for g in range(n + 1 - h)]
    statistic = {(h, g): float(score_statistic(np.array(h), np.array(g), n, epsilon)) for h, g in outcomes}
    for harms, gains in ((0, 0), (0, 1), (1, 0), (1, 2), (3, 1)):
        worst = 0.0
        for q in np.linspace(0, (1 - epsilon) / 2, 400):
            p = q + epsilon
            chance = sum(
                math.comb(n, h) * math.comb(n - h, g) * p**h * q**g * max(1 - p - q, 0) ** (n - h - g)
                for h, g in outcomes
                if statistic[h, g] <= statistic[harms, gains] + 1e-9
            )
            worst = max(worst, chance)
        assert drop_p(harms, gains, n, epsilon) == pytest.approx(worst, rel=0.02)


def test_the_nuisance_rate_of_the_statistic_is_the_most_likely_one():
    """By a fine grid: under H the harms' rate is the gains' rate and ε."""
    n, epsilon = 200, 0.03
    q = np.linspace(1e-6, (1 - epsilon) / 2 - 1e-6, 200_001)
    for h, g in ((3, 1), (10, 12), (0, 4), (30, 2)):
        best = q[np.argmax(h * np.log(q + epsilon) + g * np.log(q) + (n - h - g) * np.log1p(-2 * q - epsilon))]
        expected = (h - g - n * epsilon) / math.sqrt(n * (2 * best + epsilon - epsilon**2))
        assert float(score_statistic(np.array(h), np.array(g), n, epsilon)) == pytest.approx(expected, rel=1e-4)


@given(st.integers(0, 30), st.integers(0, 30), st.sampled_from(["drop", "disagreement"]))
def test_rejecting_many_at_once_is_a_p_value_of_at_most_delta(h, g, kind):
    g = g if kind == "drop" else 0
    together = rejected(kind, np.array([h]), np.array([g]), 300, 0.04, DELTA)[0]
    assert together == (p_value(kind, Counts(h, g, 300), 0.04) <= DELTA)


def test_a_gain_for_a_harm_costs_less_certainty_than_nothing_at_all():
    assert drop_p(0, 0, 400, 0.01) < drop_p(20, 20, 400, 0.01) < drop_p(24, 20, 400, 0.01)


def test_a_sequence_ends_at_the_first_that_is_not_rejected():
    assert fixed_sequence(np.array([[1, 1, 0, 1], [0, 1, 1, 1], [1, 1, 1, 1]], bool)).tolist() == [2, 0, 4]


def test_how_many_images_would_do():
    nothing_happens = images_needed("disagreement", Counts(0, 0, 100), 0.01, DELTA)
    assert 230 <= nothing_happens <= 240 and disagreement_p(0, nothing_happens, 0.01) <= DELTA
    some = images_needed("drop", Counts(4, 2, 400), 0.01, DELTA)
    assert some > 400 and drop_p(round(some * 0.01), round(some * 0.005), some, 0.01) <= DELTA
    assert images_needed("drop", Counts(8, 2, 400), 0.01, DELTA) is None, "at these rates no number would"


# Promises in simulated worlds, whose risks are known.


@cache
def world(kind: str, epsilon: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Chances that an image becomes a harm, or a gain, at each of 12 points of a path; the risk of one is exactly ε.

    Returns (12,) harms, (12,) gains, and the place of the point on the edge: it and all later ones must not be promised.
    """
    risks = epsilon * np.array([0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 0.85, 1.0, 1.3, 1.8, 2.5])
    gains = epsilon * np.linspace(0.1, 1.2, 12) if kind == "drop" else np.zeros(12)
    steps = [np.diff(total, prepend=0) for total in (risks + gains, gains)]
    return steps[0], steps[1], int(np.flatnonzero(risks == epsilon)[0])


def promised(kind: str, images: int, epsilon: float, repeats: int, naive: bool) -> np.ndarray:
    """How many points of the path are promised in each of many repeats, (R,)."""
    harm, gain, _ = world(kind, epsilon)
    chances = np.concatenate([harm, gain, [1 - harm.sum() - gain.sum()]])
    drawn = np.random.default_rng([images, naive]).multinomial(images, chances, size=repeats)
    harms, gains = (np.cumsum(drawn[:, place : place + 12], axis=1) for place in (0, 12))
    if naive:
        fits = harms - gains <= epsilon * images
        return np.where(fits.any(axis=1), 12 - np.argmax(fits[:, ::-1], axis=1), 0)
    return fixed_sequence(rejected(kind, harms, gains, images, epsilon, DELTA))


@pytest.mark.parametrize("images", [400, 1000, 5000])
@pytest.mark.parametrize("kind", ["drop", "disagreement"])
def test_promises_are_broken_as_seldom_as_they_say(kind, images):
    """In 4,000 repeats, with one point exactly on the edge; choosing what looks good enough breaks far more."""
    repeats, epsilon = 4000, 0.01
    edge = world(kind, epsilon)[2]
    broken = (promised(kind, images, epsilon, repeats, naive=False) > edge).mean()
    allowed = DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / repeats)
    assert broken <= allowed
    naive = (promised(kind, images, epsilon, repeats, naive=True) > edge).mean()
    assert naive > 0.3 > allowed
    if images == 5000:
        assert broken > 0.3 * DELTA, "the promise is not vacuous"
        assert (promised(kind, images, epsilon, repeats, naive=False) > 0).mean() > 0.99


def test_one_index_beyond_what_is_certified_breaks_the_promise():
    """A fault that was seen in published code."""
    edge = world("disagreement", 0.01)[2]
    beyond = promised("disagreement", 5000, 0.01, 4000, naive=False) + 1
    assert (beyond > edge).mean() > 0.3


# A real world: scikit-learn's digits, answered by classifiers that see more and more of an image.


@cache
def digits() -> tuple[Exits, Exits]:
    """Exits of images that choose, and of those that are the world; neither trained the classifiers."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(labels))
    images, labels = images[order] / 16, labels[order]
    fitted = [LogisticRegression(max_iter=60, tol=1e-2, C=0.1).fit(images[:500, :seen], labels[:500]) for seen in (24, 40, 64)]
    outputs = [model.predict_proba(images[500:, :seen]) for model, seen in zip(fitted, (24, 40, 64), strict=True)]
    exits = Exits(
        predictions=np.stack([output.argmax(1) for output in outputs[:2]]),
        scores=np.stack([output.max(1) for output in outputs[:2]]).astype(np.float32),
        labels=labels[500:],
        backbone=outputs[2].argmax(1),
        classes=10,
        costs=Costs((20.0, 50.0), (1.0, 1.0), 100.0),
    )
    return exits.of(np.arange(297)), exits.of(np.arange(297, len(exits.labels)))


@pytest.mark.parametrize(("kind", "epsilon"), [("drop", 0.03), ("disagreement", 0.05)])
def test_promises_are_kept_on_real_images(kind, epsilon):
    """The thousand images are the world; halves of validation that test are drawn from it, 4,000 times."""
    choosing, everything = digits()
    policy = plugins.load("policies", "global")
    rule = calibrated(policy, choosing, policy.parameters(steps=60), "label", {})
    rule = rule.at(risk.path_order(choosing, rule, kind))
    taken = rule.leave(everything)
    answers = np.vstack([everything.predictions, everything.backbone])[taken, np.arange(len(everything.labels))]
    if kind == "drop":
        right, backbone = answers == everything.labels, everything.backbone == everything.labels
        harm, gain = backbone & ~right, right & ~backbone
    else:
        harm = answers != everything.backbone
        gain = np.zeros_like(harm)
    true = harm.mean(axis=1) - gain.mean(axis=1)
    size, repeats, images = 500, 4000, len(everything.labels)
    drawn = np.random.default_rng(0).multinomial(size, np.full(images, 1 / images), size=repeats)
    harms, gains = drawn @ harm.T, drawn @ gain.T
    passed = fixed_sequence(rejected(kind, harms, gains, size, epsilon, DELTA))
    reached = np.where(passed > 0, true[np.maximum(passed - 1, 0)], 0.0)
    assert (true > epsilon).any() and (passed > 0).mean() > 0.5
    assert (reached > epsilon).mean() <= DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / repeats)


# The policy.


def chosen(val: Exits, **options: object) -> tuple[Rule, dict, list[str]]:
    policy = plugins.load("policies", "global")
    block = plugins.options_of(plugins.complete("policies", {"name": "risk", **options}, "policies.risk"))

    def calibrate(exits: Exits) -> Rule:
        return calibrated(policy, exits, policy.parameters(steps=40), "label", {})

    return risk.choose(val, calibrate, risk.parameters(**block), **block)


def test_the_half_that_tests_chose_nothing_and_the_half_that_chooses_tests_nothing():
    """Other labels in one half change what that half does, and nothing else."""
    val = random_exits(0, images=600, levels=200)
    seen: list[Exits] = []
    policy = plugins.load("policies", "global")
    block = plugins.options_of(plugins.complete("policies", {"name": "risk"}, "policies.risk"))

    def calibrate(exits: Exits) -> Rule:
        seen.append(exits)
        return calibrated(policy, exits, policy.parameters(steps=40), "label", {})

    _, numbers, _ = risk.choose(val, calibrate, risk.parameters(**block), **block)
    (learning,) = seen
    assert {each["images"] for each in numbers["certificates"]} == {300}
    assert len(learning.labels) == 300
    place = np.random.default_rng(1).permutation(600)
    np.testing.assert_array_equal(learning.scores, val.scores[:, np.sort(place[:300])])
    # With wrong answers everywhere in the half that tests nothing is promised, though the other half is as it was.
    spoiled = random_exits(0, images=600, levels=200)
    tests = np.sort(place[300:])
    spoiled.predictions[:, tests] = (spoiled.backbone[tests] + 1) % 5
    spoiled.labels[tests] = spoiled.backbone[tests]
    rule, numbers, warnings = risk.choose(spoiled, calibrate, risk.parameters(**block), **block)
    assert (rule.leave(spoiled) == 3).all() and [each["passed"] for each in numbers["certificates"]] == [0] * 4
    assert len(warnings) == 1 and "cannot be promised" in warnings[0]


def test_a_smaller_bound_never_gives_a_cheaper_point_and_the_chosen_one_is_the_last_that_passed():
    for seed, kind in ((0, "drop"), (1, "disagreement")):
        val = random_exits(seed, images=3000, levels=500)
        rule, numbers, warnings = chosen(val, risk=kind, bounds=[0.02, 0.2, 0.05, 0.1])
        certificates = numbers["certificates"]
        assert [each["bound"] for each in certificates] == [0.2, 0.1, 0.05, 0.02] and not warnings
        costs = [each["cost"] for each in certificates]
        assert costs == sorted(costs) and costs[0] < costs[-1]
        for each in certificates:
            counts = Counts(each["harms"], each["gains"], each["images"])
            assert each["p"] == p_value(kind, counts, each["bound"]) <= DELTA + 1e-9
        assert rule.thresholds.shape == (4, 3, 5)


def test_too_few_images_promise_nothing_and_say_how_many_more_would_do():
    val = random_exits(0, images=120, levels=50)
    rule, numbers, (warning,) = chosen(val, risk="disagreement", bounds=[0.01], path="global")
    assert (rule.leave(val) == 3).all()
    assert numbers["certificates"][0]["passed"] == 0
    assert "60 images that test it" in warning
    assert "more validation images would do" in warning or "use a larger bound" in warning


def test_critical_values_are_those_of_the_normal_distribution_for_many_images():
    assert critical_drop(5000, 0.01, DELTA) == pytest.approx(-1.2816, abs=0.03)


@pytest.mark.parametrize("bounds", [[], [0.0], [1.5], ["x"], [True]])
def test_bounds_that_are_none_are_one_line(bounds):
    with pytest.raises(plugins.CalexError, match="bounds: expected numbers between 0 and 1"):
        risk.parameters(bounds=bounds)


# The command.


def finished_run(folder: Path, val: Exits, test: Exits) -> Path:
    """The folder of a cascade in a run's results, as far as `certify` reads them."""
    cascade = folder / "results/d/b/m/default/seed0"
    cascade.mkdir(parents=True)
    write(cascade, {"val": [val], "test": [test]})
    method = {"policies": ["one", "voting"], "variants": {"default": {"score": "confidence", "correct": "label"}}}
    policies = {"one": {"name": "global", "score": None, "steps": 60}, "voting": {"name": "beem", "score": None}}
    policies |= {"both": {"name": "global", "score": None, "last": "combined", "steps": 60}}
    described = {"methods": {"m": method}, "policies": policies, "evaluation": {"folds": 5}, "backbones": {}, "datasets": {}}
    (folder / "results/d/run.json").write_text(json.dumps({"config": described}))
    return cascade


@pytest.mark.parametrize("policy", ["one", "voting"])
def test_a_finished_run_is_certified(policy, tmp_path, capsys):
    val, test = random_exits(0, images=2000, levels=500), random_exits(1, images=1500, levels=500)
    folder = finished_run(tmp_path, val, test)
    assert main(["certify", str(folder), "--policy", policy, "--drop", "0.1", "--confidence", "0.95"]) == 0
    said, on_test, thresholds = capsys.readouterr().out.splitlines()
    assert said.startswith(f"With confidence 95%, the drop is at most 10.00%: {policy} at ") and "1000 validation" in said
    found = re.search(r"1500 test images: drop ([+-][\d.]+)%, accuracy ([\d.]+)% where the backbone has ([\d.]+)%", on_test)
    assert float(found[3]) - float(found[2]) == pytest.approx(float(found[1]), abs=0.011) and float(found[1]) < 11
    assert thresholds.count("branch") == 3
    # The same as the policy says in the workflow.
    block = {"policy": {"name": "risk", "bounds": [0.1], "confidence": 0.95}, "path": settings_of(folder, policy)["policy"]}
    chosen = block | {"score": "confidence", "correct": "label", "folds": 5}
    paths = [folder / f"exits{k}.npz" for k in (1, 2, 3)]
    calibrate_step.run(argparse.Namespace(exits=paths, settings=Settings(chosen), out=tmp_path / "r.thresholds.parquet"))
    (certificate,) = json.loads((tmp_path / "r.calibration.json").read_text())["certificates"]
    assert f"({certificate['harms']} harms and {certificate['gains']} gains among 1000" in said
    key = {"dataset": "d", "backbone": "b", "method": "m", "variant": "default", "policy": "r", "seed": 0}
    out = tmp_path / "r.points.parquet"
    asked = {"exits": paths, "thresholds": tmp_path / "r.thresholds.parquet", "settings": Settings(chosen), "key": key}
    evaluate.run(argparse.Namespace(**asked, out=out))
    assert f"accuracy {pl.read_parquet(out).filter(split='test')['accuracy'][0]:.2%}" in on_test


def test_what_cannot_be_certified_is_an_answer_and_what_is_no_run_an_error(tmp_path, capsys):
    folder = finished_run(tmp_path, random_exits(0, images=100), random_exits(1, images=100))
    asked = ["certify", str(folder), "--policy", "one"]
    assert main([*asked, "--disagreement", "0.001"]) == 0
    assert "Nothing is promised: a disagreement of at most 0.1% with confidence 90%" in capsys.readouterr().out
    for arguments, said in (
        ([*asked, "--drop", "1.5"], "--drop: 1.5 is not between 0 and 1"),
        (["certify", str(folder), "--policy", "onne", "--drop", "0.1"], "did you mean 'one'?"),
        (
            ["certify", str(folder), "--policy", "both", "--drop", "0.1"],
            "--policy: both: 'risk' promises something about the backbone's",
        ),
        (["certify", str(tmp_path), "--policy", "one", "--drop", "0.1"], "of a finished run"),
        (["certify", "/", "--policy", "one", "--drop", "0.1"], "of a finished run"),
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1


def validated_tiny(content: dict[str, Any]) -> dict[str, Any]:
    schema = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    return config.validated(copy.deepcopy(content), schema, "mine.yaml")


def test_a_config_names_the_policy_that_is_certified():
    tiny_config = config.read_yaml(REPOSITORY / "tests/tiny.yaml")
    policies = tiny_config["policies"]
    policies["risk"] = {"name": "risk", "path": "cpm_full"}
    tiny_config["methods"]["reference"]["policies"] = ["cpm_full", "risk"]
    checked = validated_tiny(tiny_config)
    wildcards = {"dataset": "digits", "backbone": "resnet18", "method": "reference", "variant": "default", "policy": "risk"}
    for step in ("calibrate", "evaluate"):
        settings = job_settings.settings(step, checked, wildcards)
        assert settings["policy"]["path"] == "cpm_full" and settings["path"]["name"] == "cpm"
        assert {"calex/policies/risk.py", "calex/policies/cpm.py"} <= sources.of_step(step, settings).keys()
    assert "cpm_full" in job_settings.resolved(checked, "digits")["config"]["policies"]
    for path in ("cpm_ful", "risk"):
        policies["risk"] = {"name": "risk", "path": path}
        with pytest.raises(plugins.CalexError, match=rf"policies\.risk\.path: unknown name '{path}'"):
            validated_tiny(tiny_config)
