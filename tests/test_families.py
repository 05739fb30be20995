"""Families of networks from images to evaluated points, step by step as the workflow runs them, in one process."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import exported
import polars as pl
import pytest
from conftest import REPOSITORY

from calex import config
from calex.__main__ import main
from calex.deploy import folder as folders
from calex.steps.pareto import backbone_rows
from calex.system.files import read_json
from calex.workflow import job_settings

WHOLE = config.validated(
    config.read_yaml(REPOSITORY / "tests/families.yaml"), config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml"), "families"
)  # fmt: skip
SPLITS = ("train", "val", "test")


def calex(rule: str, *arguments: Any, backbone: str = "vit") -> None:
    """`python -m calex RULE`, with the settings that the workflow would give it."""
    job = {"dataset": "digits", "backbone": backbone, "method": "small", "variant": "default", "policy": "global"}
    settings = json.dumps(job_settings.settings(rule, WHOLE, job))
    flag = "--source" if rule == "prepare_dataset" else "--settings"
    words = [
        rule.replace("_", "-"),
        flag,
        json.dumps(WHOLE["datasets"]["digits"]["source"]) if flag == "--source" else settings,
    ]
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors):
        code = main([*words, *map(str, arguments)])
    assert code == 0, errors.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    calex("prepare_dataset", "--resources", folder, "--out", folder / "images.npz")
    return folder


COMPUTING = ("--device", "cpu", "--threads", "1")


@pytest.mark.parametrize("name", WHOLE["backbones"])
def test_a_family_goes_from_images_to_points(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(REPOSITORY / "tests"))
    monkeypatch.chdir(REPOSITORY / "tests")
    folder, dataset = place / name, ("--dataset", place / "images.npz")
    weights, branches = folder / "backbone.safetensors", folder / "seed0"
    calex("measure_taps", *dataset, "--out", folder / "taps.json", backbone=name)
    calex("train_backbone", *dataset, "--out", weights, *COMPUTING, backbone=name)
    for split in SPLITS:
        to = ("--backbone", weights, "--taps", folder / "taps.json", "--split", split, "--out", folder / "features")
        calex("cache_features", *dataset, *to, *COMPUTING, backbone=name)
    calex("train_branches", "--features", folder / "features", "--seed", 0, "--out", branches, *COMPUTING, backbone=name)
    exits = ("--exits", *(branches / f"exits{k}.npz" for k in (1, 2)))
    calex("calibrate", *exits, "--out", branches / "global.thresholds.parquet", backbone=name)
    thresholds, points = branches / "global.thresholds.parquet", branches / "global.points.parquet"
    key = json.dumps(
        {"dataset": "digits", "backbone": name, "method": "small", "variant": "default", "policy": "global", "seed": 0}
    )
    calex("evaluate", *exits, "--thresholds", thresholds, "--key", key, "--out", points, backbone=name)

    table = pl.read_parquet(points).filter(pl.col("split") == "test").sort("point")
    measured, about = read_json(folder / "taps.json"), read_json(weights.with_suffix(".json"))
    assert measured["flops"] == about["flops"] and measured["input_size"] == 16
    stored = read_json(folder / "features/val.json")
    assert stored["provenance"]["layouts"] == [tap["layout"] for tap in measured["taps"]]
    # At the last operating point nobody leaves: the network's own accuracy, and its cost with every branch on top.
    last = table.row(-1, named=True)
    assert last["accuracy"] == pytest.approx(about["accuracy"]["test"], abs=0.005) and last["flops_fraction"] > 1
    assert table["flops_fraction"][0] < 1 and table["exit_share"].list.first()[0] == 1
    # The branches have learnt from what they were given: at the first all images leave.
    assert table["accuracy"][0] > 0.2
    answers_like_the_cache(place, name, points)


def answers_like_the_cache(place: Path, name: str, points: Path) -> None:
    """The cascade that runs, over all test images: the exits and classes that evaluation computed from stored features."""
    (place / "results").mkdir(exist_ok=True)
    for link, target in ((place / "results" / "digits", place), (place / name / "small" / "default" / "seed0", points.parent)):
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(target)
    table = pl.concat([pl.read_parquet(points), backbone_rows("digits", name, points.parent / "exits1.npz", place / name)])
    curves = exported.curves_of(place / "results", "digits", WHOLE, table, first_seed=0)
    ((_, made, pixels, taken, answered, said),) = curves
    assert exported.compare(made, pixels, taken, answered, said) <= 0.001 * 3 * len(pixels)
    folders.write(made, place / name / "cascade")
    again = folders.read(place / name / "cascade").classify(pixels[:20])
    assert again.exit.tolist() == made.classify(pixels[:20]).exit.tolist()
