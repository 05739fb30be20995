"""Operating points: accuracy, agreement, cost and shares beside plain loops; the ends of the curve; cross-fitting."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_exits import BACKBONE, HEAD, TO_TAP, any_exits, exits, random_exits, write

from calex.errors import CalexError
from calex.policies.cpm import cpm_thresholds
from calex.simulation import cascade, crossfit, threshold_table
from calex.simulation.cost import Costs
from calex.simulation.crossfit import assign_folds
from calex.simulation.evaluation import SCHEMA, measure
from calex.simulation.exits import Exits, read, read_backbone_log_softmax, read_scores, read_views
from calex.simulation.exits_file import BranchPredictions, content, half, joined, kept
from calex.simulation.rule import Rule
from calex.simulation.scores import scores
from calex.steps import calibrate, evaluate
from calex.system.files import read_npz, write_npz

INF = math.inf


@st.composite
def exits_and_taken(draw: st.DrawFn) -> tuple[Exits, np.ndarray]:
    given_exits = draw(any_exits(images=(1, 25)))
    n, points = len(given_exits.labels), draw(st.integers(1, 4))
    flat = draw(st.lists(st.integers(0, len(given_exits.scores)), min_size=points * n, max_size=points * n))
    return given_exits, np.array(flat, np.uint8).reshape(points, n)


def cost_by_hand(k: int, branches: int) -> float:
    """The backbone as far as it went, and every head on the way, the declined ones too."""
    heads = sum(HEAD[j] for j in range(branches) if j <= k)
    return (TO_TAP[k] if k < branches else BACKBONE) + heads


@given(exits_and_taken())
def test_points_equal_plain_loops(drawn):
    given_exits, taken = drawn
    branches, n = given_exits.predictions.shape
    found = measure(given_exits, taken)
    assert found["point"].to_list() == list(range(len(taken))) and set(found["n"]) == {n}
    for p, row in enumerate(found.iter_rows(named=True)):
        right = agreed = 0
        cost = alone = 0.0
        shares = [0] * (branches + 1)
        for i, k in enumerate(taken[p].tolist()):
            said = given_exits.backbone[i] if k == branches else given_exits.predictions[k, i]
            right += said == given_exits.labels[i]
            agreed += said == given_exits.backbone[i]
            cost += cost_by_hand(k, branches)
            alone += BACKBONE if k == branches else TO_TAP[k] + HEAD[k]
            shares[k] += 1
        assert row["accuracy"] == right / n and row["agreement"] == agreed / n
        assert row["flops"] == pytest.approx(cost / n)
        assert row["flops_fraction"] == pytest.approx(cost / n / BACKBONE)
        assert row["flops_fraction_exit_only"] == pytest.approx(alone / n / BACKBONE)
        assert row["exit_share"] == [share / n for share in shares]
        assert sum(row["exit_share"]) == pytest.approx(1)


def test_a_point_by_hand():
    # Taps at 10 and 30 of 100, heads of 1 and 2. Four images leave at branch 1, 2, the backbone, the backbone:
    # 10 + 1, 30 + 1 + 2 and twice 100 + 1 + 2 make 250; with the exits known beforehand 11 + 32 + 100 + 100 = 243.
    four = exits([[0, 1, 1, 1], [1, 1, 0, 1]], [[0.5] * 4] * 2, [0, 1, 2, 2], [1, 1, 2, 0], 3)
    (row,) = measure(four, np.array([[0, 1, 2, 2]], np.uint8)).iter_rows(named=True)
    assert row == {
        "point": 0,
        "n": 4,
        "accuracy": 0.75,  # 0, 1, 2 are right, the backbone's last answer is not
        "agreement": 0.75,  # branch 1's answer is not the backbone's
        "flops": 62.5,
        "flops_fraction": 0.625,
        "flops_fraction_exit_only": 0.6075,
        "exit_share": [0.25, 0.25, 0.5],
    }


def test_what_it_costs_to_leave_at_each_exit():
    costs = Costs(to_tap=(10, 30, 60), head=(1, 2, 4), backbone=100)
    assert costs.by_exit().tolist() == [11, 33, 67, 107]
    assert costs.by_exit_alone().tolist() == [11, 32, 64, 100]
    assert Costs((), (), 100).by_exit().tolist() == [100]


def test_columns_have_the_types_of_the_points_file():
    found = measure(random_exits(images=20), np.zeros((2, 20), np.uint8))
    assert {name: SCHEMA[name] for name in found.columns} == dict(found.schema)


def test_the_order_of_images_changes_no_bit():
    many = random_exits(images=997)
    many = replace(many, costs=Costs((1e9 / 3, 2e9 / 3, 3e9 / 3), (1e6 / 7, 2e6 / 7, 4e6 / 7), 4e9 / 3))
    taken = cascade.leave(many, cpm_thresholds(many, np.linspace(1, -2, 20)))
    order = np.random.default_rng(1).permutation(997)
    assert measure(many, taken).equals(measure(many.of(order), taken[:, order]))


# The ends of the curve, for whatever exits there are.


@given(any_exits(images=(1, 30)), st.sampled_from(["survivors", "all"]), st.integers(1, 5))
def test_the_ends_of_the_curve(given_exits, population, min_support):
    branches = len(given_exits.scores)
    thresholds = cpm_thresholds(given_exits, np.linspace(1, -2, 31), population=population, min_support=min_support)
    found = measure(given_exits, cascade.leave(given_exits, thresholds))
    last = found.row(30, named=True)
    # m = −2 is the backbone itself: its answers, at exactly its cost and that of the heads that all declined.
    assert last["accuracy"] == float(np.mean(given_exits.backbone == given_exits.labels)) and last["agreement"] == 1
    assert last["flops_fraction"] == (BACKBONE + sum(HEAD[:branches])) / BACKBONE
    assert last["flops_fraction_exit_only"] == 1
    assert last["exit_share"] == [0.0] * branches + [1.0]
    # No margin is cheaper than 1, and none dearer than −2.
    assert found["flops"].min() == found["flops"][0] and found["flops"].max() == found["flops"][30]
    if np.isin(given_exits.predictions[0], given_exits.backbone).all():
        assert found["exit_share"][0].to_list() == [1.0] + [0.0] * branches
        assert found["flops"][0] == TO_TAP[0] + HEAD[0]


@given(any_exits(images=(1, 30)))
def test_the_oracle_is_a_bound_on_accuracy(given_exits):
    thresholds = cpm_thresholds(given_exits, np.linspace(1, -2, 31), min_support=1)
    best = measure(given_exits, cascade.leave(given_exits, thresholds))["accuracy"].max()
    (bound,) = measure(given_exits, cascade.oracle(given_exits))["accuracy"]
    assert bound >= best


def test_the_curve_of_plausible_exits_trades_cost_for_accuracy():
    many = random_exits(images=2000)
    found = measure(many, cascade.leave(many, cpm_thresholds(many, np.linspace(1, -2, 61))))
    assert found["accuracy"][0] < found["accuracy"][60]
    assert ((found["flops_fraction"] > 0.2) & (found["flops_fraction"] < 0.9)).sum() > 10


# Cross-fitting: validation images are judged by thresholds that never saw them.


def per_fold(given_exits: Exits, assigned: np.ndarray, margins: np.ndarray) -> np.ndarray:
    return np.stack([cpm_thresholds(given_exits.of(assigned != f), margins, min_support=2) for f in range(assigned.max() + 1)])


@given(exits_and_taken(), st.integers(2, 4), st.integers(0, 100))
def test_cross_fitting_equals_plain_loops(drawn, count, seed):
    given_exits, _ = drawn
    draw = np.random.default_rng(seed)
    assigned = draw.integers(0, count, len(given_exits.labels))
    thresholds = draw.integers(0, 6, (count, 3, len(given_exits.scores), given_exits.classes)) / 5
    found = crossfit.leave(given_exits, assigned, [Rule(each) for each in thresholds])
    for i, fold in enumerate(assigned):
        np.testing.assert_array_equal(found[:, i], cascade.leave(given_exits, thresholds[fold])[:, i])


def test_an_images_own_label_never_moves_its_exit():
    many = random_exits(images=60, classes=3)
    margins, assigned = np.linspace(1, -2, 13), assign_folds(many.backbone, 5)
    before = crossfit.leave(many, assigned, [Rule(each) for each in per_fold(many, assigned, margins)])
    moved = 0
    for i in range(60):
        labels = many.labels.copy()
        labels[i] = (labels[i] + 1) % 3
        changed = replace(many, labels=labels)
        after = crossfit.leave(changed, assigned, [Rule(each) for each in per_fold(changed, assigned, margins)])
        np.testing.assert_array_equal(before[:, i], after[:, i])
        moved += (before != after).any()
    assert moved > 30, "labels should matter to others, else this shows nothing"


KEY = {"dataset": "d", "backbone": "b", "method": "m", "variant": "default", "policy": "p", "seed": 1}


def run_steps(folder, paths, policy, count=5):
    chosen = {"policy": policy, "score": "confidence", "correct": "label", "folds": count}
    calibrate.run(argparse.Namespace(exits=paths, settings=chosen, out=folder / "p.thresholds.parquet"))
    thresholds = folder / "p.thresholds.parquet"
    out = folder / "p.points.parquet"
    evaluate.run(argparse.Namespace(exits=paths, thresholds=thresholds, settings=chosen, key=KEY, out=out))
    return pl.read_parquet(out), np.load(folder / "p.exits.npz")["exit"]


def test_the_steps_judge_validation_crosswise_and_test_by_all_of_validation(tmp_path):
    val, test = random_exits(0, images=150), random_exits(1, images=130)
    paths = write(tmp_path, {"val": [val], "test": [test]})
    val, test = read(paths, "val", "confidence"), read(paths, "test", "confidence")
    policy = {"name": "cpm", "population": "survivors", "min_support": 2, "steps": 4}
    points, taken = run_steps(tmp_path, paths, policy)

    margins = np.array([1, 27 / 64, 1 / 8, 1 / 64, 0, -0.25, -0.5, -0.75, -1, -1.25, -1.5, -1.75, -2])
    assigned = assign_folds(val.backbone, 5)
    expected = {
        "val": measure(val, crossfit.leave(val, assigned, [Rule(each) for each in per_fold(val, assigned, margins)])),
        "test": measure(test, cascade.leave(test, cpm_thresholds(val, margins, min_support=2))),
    }
    assert points.columns == list(SCHEMA) and dict(points.schema) == SCHEMA
    for split, rows in expected.items():
        assert points.filter(split=split).select(rows.columns).equals(rows)
        assert points.filter(split=split).select(*KEY).unique().row(0, named=True) == KEY
    np.testing.assert_array_equal(taken, cascade.leave(test, cpm_thresholds(val, margins, min_support=2)))
    assert taken.dtype == np.uint8


def test_without_thresholds_the_oracle_is_evaluated(tmp_path):
    val, test = random_exits(0, images=50), random_exits(1, images=40)
    paths = write(tmp_path, {"val": [val], "test": [test]})
    chosen = {"score": "confidence", "correct": "label", "folds": 5}
    out = tmp_path / "oracle.points.parquet"
    evaluate.run(argparse.Namespace(exits=paths, thresholds=None, settings=chosen, key=KEY, out=out))
    everything = pl.read_parquet(out)
    assert set(everything["policy"]) == {"p", "clairvoyant"} and everything.filter(policy="clairvoyant").height == 2 * 41
    points = everything.filter(policy="p")
    assert points["parameters"].to_list() == ["{}", "{}"] and points["split"].to_list() == ["val", "test"]
    assert points["n"].to_list() == [50, 40]
    np.testing.assert_array_equal(np.load(tmp_path / "oracle.exits.npz")["exit"], cascade.oracle(test))


def test_thresholds_of_other_branches_are_refused(tmp_path):
    val = random_exits(images=50)
    paths = write(tmp_path, {"val": [val], "test": [val]})
    policy = {"name": "cpm", "population": "all", "min_support": 2, "steps": 1}
    run_steps(tmp_path, paths, policy)
    chosen = {"policy": policy, "score": "confidence", "correct": "label", "folds": 5}
    with pytest.raises(CalexError, match=r"p\.thresholds\.parquet.*rerun calibrate"):
        evaluate.run(
            argparse.Namespace(
                exits=paths[:2],
                thresholds=tmp_path / "p.thresholds.parquet",
                settings=chosen,
                key=KEY,
                out=tmp_path / "x.points.parquet",
            )
        )
    assert not (tmp_path / "x.points.parquet").exists()


def test_folds_are_read_and_not_made_again(tmp_path):
    """Other folds in the record, as another version might have drawn them: each image meets the thresholds of the fold it is in."""
    val = random_exits(0, images=150)
    paths = write(tmp_path, {"val": [val], "test": [val]})
    val = read(paths, "val", "confidence")
    before, _ = run_steps(tmp_path, paths, {"name": "cpm", "min_support": 2, "steps": 4})
    path = tmp_path / "p.calibration.json"
    record = json.loads(path.read_text())
    assert record["fold_of_image"] == assign_folds(val.backbone, 5).tolist()
    folds = np.roll(record["fold_of_image"], 1)
    path.write_text(json.dumps(record | {"fold_of_image": folds.tolist()}))
    chosen = {"policy": {"name": "cpm"}, "score": "confidence", "correct": "label"}
    asked = {"exits": paths, "thresholds": tmp_path / "p.thresholds.parquet", "settings": chosen, "key": KEY}
    evaluate.run(argparse.Namespace(**asked, out=tmp_path / "p.points.parquet"))
    after = pl.read_parquet(tmp_path / "p.points.parquet")
    taken = crossfit.leave(val, folds, threshold_table.read(tmp_path / "p.thresholds.parquet", 3, 5).rules()[1])
    rows = measure(val, taken)
    assert after.filter(split="val").select(rows.columns).equals(rows) and not after.equals(before)
    for wrong in ([], folds.tolist()[1:], (folds + 1).tolist(), (folds - 1).tolist(), (folds / 2).tolist(), "0", [[0]] * 150):
        path.write_text(json.dumps(record | {"fold_of_image": wrong}))
        with pytest.raises(CalexError, match=r"p\.calibration\.json: 'fold_of_image' is not the fold.*rerun calibrate"):
            evaluate.run(argparse.Namespace(**asked, out=tmp_path / "x.points.parquet"))
    path.unlink()
    with pytest.raises(FileNotFoundError):
        evaluate.run(argparse.Namespace(**asked, out=tmp_path / "x.points.parquet"))


# What an exits file holds.


@pytest.mark.parametrize(("score", "heads"), [("max_softmax", HEAD), ("confidence", tuple(2 * head for head in HEAD))])
def test_only_the_heads_that_the_score_needs_are_charged(tmp_path, score, heads):
    """`write` makes a head with its confidence part cost twice the head alone."""
    given_exits = random_exits(images=10)
    found = read(write(tmp_path, {"val": [given_exits]}), "val", score)
    assert found.costs == Costs(TO_TAP, heads, BACKBONE)


def test_exits_survive_the_file(tmp_path):
    two = [random_exits(0, images=10), random_exits(1, images=10)]
    two[1].labels[:] = two[0].labels
    paths = write(tmp_path, {"train": two, "val": two[:1]})
    assert len(read_views(paths, "val", "confidence")) == 1
    for found, expected in zip(read_views(paths, "train", "confidence"), two, strict=True):
        for name in ("predictions", "scores", "labels", "backbone"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
        assert found.classes == expected.classes


def test_exits_that_do_not_belong_together_are_refused(tmp_path):
    (tmp_path / "other").mkdir()
    mine = write(tmp_path, {"val": [random_exits(0, images=10)]})
    others = write(tmp_path / "other", {"val": [random_exits(1, images=10)]})
    with pytest.raises(CalexError, match=r"exits2\.npz: made from other images than .*exits1\.npz"):
        read([mine[0], others[1]], "val", "confidence")
    write_npz(mine[0], {name: value for name, value in read_npz(mine[0]).items() if "confidence" not in name})
    with pytest.raises(CalexError, match=r"exits1\.npz: holds no 'val_confidence'"):
        read(mine, "val", "confidence")
    assert set(read_scores(mine, "val")) == {"max_softmax", "margin", "entropy"}
    with pytest.raises(CalexError, match="holds no 'test_prediction'"):
        read(mine, "test", "confidence")


def test_exits_of_an_older_format_are_one_line_that_says_what_to_rerun(tmp_path):
    (path,) = write(tmp_path, {"val": [random_exits(0, images=10, branches=1)]})
    arrays = read_npz(path)
    for old, said in (
        ({name: value for name, value in arrays.items() if name != "format"}, "written by an older calex"),
        (arrays | {"format": np.array(9)}, "its format is 9, not 2"),
    ):
        write_npz(path, old)
        with pytest.raises(CalexError, match=rf"exits1\.npz: {said}.*; rerun train-branch") as caught:
            read([path], "val", "confidence")
        assert "\n" not in str(caught.value)


def test_scores_from_a_file_are_those_of_the_branch_to_the_bit_and_the_whole_softmax_is_half_as_precise(tmp_path):
    draw = np.random.default_rng(0)
    logits = draw.normal(0, 6, (500, 10))
    given_branch = (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)
    given_branch[0] = [0, *[-1e5] * 9]  # below what float16 holds
    confidence = draw.random(500).astype(np.float32)
    one = BranchPredictions(given_branch, confidence)
    first, last = (BranchPredictions(given_branch[part], confidence[part]) for part in (slice(0, 123), slice(123, None)))
    labels, backbone = draw.integers(0, 10, 500), given_branch[None, ::-1]
    splits = {"train": [kept(one, whole=False)] * 2, "val": [joined([kept(part, whole=True) for part in (first, last)])]}
    arrays = content(
        splits, dict.fromkeys(splits, labels), {"train": np.repeat(backbone, 2, 0).argmax(2), "val": backbone.argmax(2)},
        10.0, 1.0, 2.0, 100.0, {"val": half(backbone)},
    )  # fmt: skip
    path = tmp_path / "exits1.npz"
    write_npz(path, arrays)
    for split in splits:
        for name, expected in scores(given_branch, confidence).items():
            found = read([path], split, name)
            np.testing.assert_array_equal(found.scores[0], expected, strict=True)
            np.testing.assert_array_equal(read_scores([path], split)[name], expected[None])
    whole = read([path], "val", "margin", whole=True).log_probabilities
    assert whole.dtype == np.float16 and np.isfinite(whole).all()
    np.testing.assert_allclose(np.exp(whole[0].astype(float)), np.exp(given_branch.astype(float)), atol=2e-4)
    np.testing.assert_allclose(np.exp(read_backbone_log_softmax(path, "val").astype(float)), np.exp(backbone[0]), atol=2e-4)
    for read_whole in (read_backbone_log_softmax, lambda path, split: read([path], split, "margin", whole=True)):
        with pytest.raises(CalexError, match=r"holds no whole log-softmax of train images; rerun train-branch, .*true"):
            read_whole(path, "train")


def test_some_of_the_images():
    many = random_exits(images=30)
    for chosen in (np.array([4, 2, 9]), np.arange(30) % 3 == 0):
        some = many.of(chosen)
        np.testing.assert_array_equal(some.labels, many.labels[chosen])
        np.testing.assert_array_equal(some.backbone, many.backbone[chosen])
        np.testing.assert_array_equal(some.scores, many.scores[:, chosen])
        np.testing.assert_array_equal(some.predictions, many.predictions[:, chosen])
        assert some.costs == many.costs and some.classes == many.classes
