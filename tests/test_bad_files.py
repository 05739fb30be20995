"""Damaged files and incomplete settings, by hand: one line that names the file or key, exit code 2, nothing written."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_calex
from made_up_exits import random_exits, write

SETTINGS = json.dumps({"policy": {"name": "cpm", "steps": 3}, "score": "margin", "correct": "label", "folds": 3})
KEY = json.dumps({"dataset": "d", "backbone": "b", "method": "m", "variant": "default", "policy": "cpm", "seed": 0})
EVALUATION = json.dumps({"score": "margin", "correct": "label"})


def refused(said: str, *arguments: str | Path) -> None:
    done = run_calex(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


@pytest.fixture
def exits(tmp_path: Path) -> list[Path]:
    return write(tmp_path, {"val": [random_exits(0)], "test": [random_exits(1)]}, "margin")


def test_truncated_exits(exits: list[Path], tmp_path: Path) -> None:
    exits[1].write_bytes(exits[1].read_bytes()[:500])
    refused("exits2.npz: damaged", "calibrate", "--exits", *exits, "--settings", SETTINGS, "--out", tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_truncated_thresholds(exits: list[Path], tmp_path: Path) -> None:
    thresholds, points = tmp_path / "t.parquet", tmp_path / "p.points.parquet"
    assert run_calex("calibrate", "--exits", *exits, "--settings", SETTINGS, "--out", thresholds).returncode == 0
    thresholds.write_bytes(thresholds.read_bytes()[:300])
    arguments = ("evaluate", "--exits", *exits, "--thresholds", thresholds, "--settings", EVALUATION, "--key", KEY)
    refused("t.parquet: damaged", *arguments, "--out", points)
    assert not points.exists()


def test_exits_of_other_images(exits: list[Path], tmp_path: Path) -> None:
    with np.load(exits[1]) as archive:
        arrays = dict(archive)
    arrays["val_label"] = arrays["val_label"][::-1].copy()
    np.savez(exits[1], **arrays)
    refused("made from other images", "calibrate", "--exits", *exits, "--settings", SETTINGS, "--out", tmp_path / "t.parquet")


def test_a_missing_key_and_a_misspelt_option(exits: list[Path], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "t.parquet")
    refused("the key 'score' is missing", "calibrate", "--exits", *exits, "--settings", '{"policy":{"name":"cpm"}}', *out)
    wrong = SETTINGS.replace('"steps"', '"stepz"')
    refused("unknown key 'stepz', did you mean 'steps'?", "calibrate", "--exits", *exits, "--settings", wrong, *out)


def test_a_damaged_dataset(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    source = ("--source", '{"name":"digits"}', "--resources", tmp_path)
    assert run_calex("prepare-dataset", *source, "--out", path).returncode == 0
    content = bytearray(path.read_bytes())
    content[5000] ^= 1  # one bit of a pixel
    path.write_bytes(content)
    block = '{"network":"resnet18","stem":"cifar"}'
    out = tmp_path / "backbone.safetensors"
    refused("images.npz: ", "train-backbone", "--dataset", path, "--settings", block, "--out", out)
    assert not out.exists()
