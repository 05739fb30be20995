"""Calibration that cannot choose says so: how many operating points are distinct, how many classes have enough images."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from made_up_exits import random_exits, write

from calex.simulation import cascade
from calex.simulation.exits import Exits
from calex.steps import calibrate, weigh_survivors

POLICIES = ("cpm", "global", "budgeted")


def calibrated(folder: Path, validation: Exits, capsys, **policy: object) -> tuple[dict, np.ndarray, str]:
    """The record, the thresholds (P, K, C) from all of validation, and the log."""
    folder.mkdir(exist_ok=True)
    paths = write(folder, {"val": [validation]})
    chosen = {"policy": policy, "score": "confidence", "correct": "label", "folds": 5}
    calibrate.run(argparse.Namespace(exits=paths, settings=chosen, out=folder / "p.thresholds.parquet"))
    record = json.loads((folder / "p.calibration.json").read_text())
    frame = pl.read_parquet(folder / "p.thresholds.parquet").filter(fold=-1).sort("point", "branch", "class")
    shape = (record["operating_points"], record["branches"], record["classes"])
    return record, frame["threshold"].to_numpy().reshape(shape), capsys.readouterr().err


def few_images(classes: int = 60, of_each: int = 2) -> Exits:
    """A branch that knows its classes, and too few validation images of each."""
    return random_exits(0, images=classes * of_each, classes=classes)


@pytest.mark.parametrize("name", POLICIES)
def test_enough_images_give_many_points_and_no_warning(name, tmp_path, capsys):
    many = random_exits(0, images=800, levels=1000)
    record, thresholds, log = calibrated(tmp_path, many, capsys, name=name)
    different = []
    for taken in cascade.leave(many, thresholds).tolist():
        if taken not in different:
            different.append(taken)
    assert record["operating_points"] == 121 and record["distinct_operating_points"] == len(different) > 20
    assert record["warnings"] == [] and "warning" not in log
    assert f"operating_points 121, distinct_operating_points {len(different)}" in log


def test_two_images_a_class_are_too_few_for_a_threshold_a_class(tmp_path, capsys):
    record, _, log = calibrated(tmp_path, few_images(), capsys, name="cpm", min_support=9)
    assert record["operating_points"] == 121 and record["distinct_operating_points"] < 5
    assert record["classes_with_min_support"] == [0, 0, 0] and record["min_support"] == 9
    points, classes = record["warnings"]
    assert points.startswith(
        f"only {record['distinct_operating_points']} of 121 operating points differ on the 120 validation images"
    )
    assert "only 0 of 60 classes are predicted for min_support (9) or more of the 120 validation images" in classes
    for warning in record["warnings"]:
        assert "hold out more validation images" in warning and "lower min_support" in warning and "`global`" in warning
        assert f"warning: calibrate p: {warning}\n" in log


def test_what_the_warning_proposes_helps(tmp_path, capsys):
    """For the same images: another policy, a lower min_support, or more images."""
    for number, (images, policy) in enumerate(
        [
            (few_images(), {"name": "global"}),
            (few_images(), {"name": "cpm", "min_support": 1}),
            (few_images(of_each=40), {"name": "cpm"}),
        ]
    ):
        record, _, log = calibrated(tmp_path / str(number), images, capsys, **policy)
        assert record["warnings"] == [] and "warning" not in log, record


@pytest.mark.parametrize("name", POLICIES)
def test_scores_that_are_all_alike_leave_nothing_to_choose(name, tmp_path, capsys):
    flat = random_exits(0)
    flat.scores[:] = 0.5
    record, _, log = calibrated(tmp_path, flat, capsys, name=name)
    assert record["distinct_operating_points"] <= 12
    assert "operating points differ" in record["warnings"][0] and "warning: calibrate p: only" in log


def test_few_points_that_were_asked_for_are_no_fault(tmp_path, capsys):
    record, _, _ = calibrated(tmp_path, random_exits(0), capsys, name="global", steps=3)
    assert record["operating_points"] == record["distinct_operating_points"] == 4 and record["warnings"] == []


def test_classes_that_no_image_is_answered_as_are_not_missed(tmp_path, capsys):
    """A branch that answers two of five classes has enough images for both."""
    narrow = random_exits(0)
    narrow.predictions[0] %= 2
    record, _, _ = calibrated(tmp_path, narrow, capsys, name="cpm")
    assert record["classes_with_min_support"] == [2, 5, 5] and record["warnings"] == []


def test_the_same_exits_give_the_same_record_to_the_byte(tmp_path, capsys):
    contents = set()
    for run in ("a", "b"):
        calibrated(tmp_path / run, random_exits(0), capsys, name="cpm")
        contents.add((tmp_path / run / "p.calibration.json").read_bytes())
    assert len(contents) == 1


def weighed(folder: Path, validation: Exits, train: Exits, **weighting: object) -> tuple[dict, np.ndarray]:
    paths = write(folder, {"val": [validation], "train": [train]})
    chosen = {"weighting": {"name": "survivors", **weighting}, "score": "confidence", "correct": "label"}
    weigh_survivors.run(argparse.Namespace(exits=paths, settings=chosen, out=folder / "weights2.npy"))
    return json.loads((folder / "weights2.json").read_text()), np.load(folder / "weights2.npy")


def test_what_weights_rest_on_is_kept_beside_them(tmp_path, capsys):
    record, weights = weighed(tmp_path, random_exits(0), random_exits(1), train_margin=0.25)
    assert (
        record["effective_sample_size"] == pytest.approx(weights.sum() ** 2 / (weights**2).sum()) and record["warnings"] == []
    )
    assert (record["images"], record["views"], record["min_support"]) == (400, 1, 5) and 0 < record["survival"] < 1


def test_survivors_that_nobody_can_tell_are_no_silent_uniform_weights(tmp_path, capsys):
    record, weights = weighed(tmp_path, few_images(), random_exits(1, classes=60), min_support=9, train_margin=-0.5)
    assert (weights == 1).all()
    few, alike = record["warnings"]
    assert "only 0 of 60 classes are predicted for min_support (9)" in few and "`uniform`" in few
    assert "survival is the same for every training image (1)" in alike
    assert capsys.readouterr().err.count("warning: weigh-survivors 4: ") == 2


def test_a_sharpness_of_infinity_asks_for_equal_weights(tmp_path):
    record, weights = weighed(tmp_path, random_exits(0), random_exits(1), sharpness="inf")
    assert (weights == 1).all() and record["warnings"] == []


def test_few_images_that_carry_the_weights_are_kept_too(tmp_path):
    sure = random_exits(0, images=400)
    sure.predictions[:] = np.where(sure.scores >= 0.5, sure.labels, (sure.labels + 1) % 5)
    train = random_exits(1, images=400)
    train.scores[:], train.scores[:, 0] = 1, 0
    record, weights = weighed(tmp_path, sure, train, floor=0.0, sharpness=0.01, train_margin=-0.5)
    assert weights[0, 0] > 100 and any("the weights rest on few images" in warning for warning in record["warnings"]), record
