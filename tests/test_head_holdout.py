"""Images that are kept away from the backbone are what its branches learn from, and nothing else changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import run_calex
from hypothesis import given
from hypothesis import strategies as st

from calex import images
from calex.errors import CalexError
from calex.features.store import open_store
from calex.images.splitting import split_head_holdout
from calex.system.files import read_json


@given(st.lists(st.integers(20, 60), min_size=2, max_size=5), st.floats(0.1, 0.9))
def test_both_parts_are_whole_disjoint_and_in_proportion(counts: list[int], holdout: float) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    learned, kept = split_head_holdout(labels, holdout)
    assert sorted([*learned, *kept]) == list(range(len(labels)))
    for label, count in enumerate(counts):
        assert abs((labels[kept] == label).sum() - holdout * count) <= 2
    again = split_head_holdout(labels, holdout)
    np.testing.assert_array_equal(learned, again[0])
    np.testing.assert_array_equal(kept, again[1])


def test_without_a_share_both_get_everything() -> None:
    learned, kept = split_head_holdout(np.array([0, 1, 1, 0]), 0.0)
    assert learned.tolist() == kept.tolist() == [0, 1, 2, 3]


def test_a_share_that_leaves_a_class_out_names_its_key() -> None:
    with pytest.raises(CalexError, match=r"head_holdout: 0\.01 of 100 training images leaves a class out; raise it"):
        split_head_holdout(np.repeat(np.arange(5), 20), 0.01)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Digits, a backbone that saw 60 % of their train split, and its features."""
    folder = tmp_path_factory.mktemp("holdout")

    def step(*arguments: object) -> None:
        done = run_calex(*map(str, arguments))
        assert done.returncode == 0, done.stderr

    network = {"network": "resnet18", "stem": "imagenet", "input_size": 8}
    training = {
        "epochs": 1, "batch_size": 128, "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0005, "label_smoothing": 0,
        "schedule": "onecycle", "compute": "float32",
    }  # fmt: skip
    block = network | {
        "augment": {"shift": 0, "flip": False}, "normalisation": None, "training": training, "seed": 0, "trained_on": ["train"],
        "head_holdout": 0.4,
    }  # fmt: skip
    cache = {"views": 1, "precision": "float16", "codec": "none", "compute": "float32", "batch_size": 128, "order_seed": 0}
    dataset, weights, taps = folder / "images.npz", folder / "backbone.safetensors", folder / "taps.json"
    step("prepare-dataset", "--source", '{"name":"digits"}', "--resources", folder, "--out", dataset)
    step("train-backbone", "--dataset", dataset, "--settings", json.dumps(block), "--device", "cpu", "--out", weights)
    measured = json.dumps(network | {"taps": ["layer1"], "pool": 4})
    step("measure-taps", "--dataset", dataset, "--settings", measured, "--out", taps)
    for split in ("train", "val"):
        step(
            "cache-features", "--dataset", dataset, "--backbone", weights, "--taps", taps, "--split", split,
            "--settings", json.dumps(cache), "--device", "cpu", "--out", folder / "features",
        )  # fmt: skip
    return folder


def test_branches_read_only_what_the_backbone_has_not_learnt(run: Path) -> None:
    dataset = images.load(run / "images.npz")
    train = dataset.indices("train")
    learned, kept = split_head_holdout(dataset.labels[train], 0.4)
    assert sorted(open_store(run / "features", "train").index) == sorted(train[kept])
    assert not set(open_store(run / "features", "train").index) & set(train[learned])
    assert sorted(open_store(run / "features", "val").index) == sorted(dataset.indices("val"))
    about = read_json(run / "backbone.json")
    assert about["trained_on"] == [f"{len(learned)} of {len(train)} train images"]
    # The channel means are those of the images that it learnt from.
    mean = dataset.images[train[learned]].mean() / 255
    assert about["transform"]["mean"][0] == pytest.approx(mean, abs=1e-5)
