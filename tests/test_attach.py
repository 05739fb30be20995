"""Early exits in a notebook: the documented script, every recipe, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import documented
import numpy as np
import pytest
import torch
from small_cascades import Small, random_weights
from small_networks import three_maps

import calex
from calex.backbones import build
from calex.deploy.arrays import dataset_of
from calex.deploy.in_process import Steps
from calex.errors import CalexError

DRAW = np.random.default_rng(0)
CLASSES = ["red", "green", "blue", "grey"]


def pictures(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images whose brightest channel tells their class, or none."""
    labels = np.arange(count) % 4
    images = DRAW.integers(0, 90, (count, 9, 9, 3))
    images[labels < 3, :, :, labels[labels < 3]] += 80
    return images.astype(np.uint8), labels


def trained() -> Small:
    torch.manual_seed(0)
    network = Small()
    random_weights(network, 1)
    return network


TRAIN, VAL, TEST = pictures(120), pictures(80), pictures(40)


def test_the_documented_script_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(documented.written_files()["notebook.py"], "notebook.py", "exec"), {})
    first, second = capsys.readouterr().out.splitlines()
    assert float(first.split("test accuracy ")[1]) == pytest.approx(float(second), abs=0.003) and float(second) > 0.8


@pytest.mark.parametrize(
    ("method", "policy"),
    [
        ({"recipe": {"name": "branchwise", "epochs": 2}, "weighting": {"name": "survivors"}, "score": "confidence"}, "cpm"),
        (
            {"recipe": {"name": "ztw", "epochs": 2, "ensemble_epochs": 1}, "target": {"name": "labels"}},
            {"name": "global", "steps": 9},
        ),
        ({"recipe": {"name": "branchwise", "epochs": 2}}, {"name": "cpm", "score": "margin"}),
        ({"recipe": {"name": "branchwise", "epochs": 2}}, {"name": "risk", "bounds": [0.2, 0.5]}),
        (
            {"recipe": {"name": "branchwise", "epochs": 2}},
            {"name": "risk", "bounds": [0.3], "path": {"name": "global", "score": "entropy", "steps": 9}},
        ),
        ({"recipe": {"name": "branchwise", "epochs": 2}}, {"name": "stopping", "last": "combined"}),
    ],
)
def test_what_it_answers_is_what_was_measured(method: dict[str, Any], policy: Any, tmp_path: Path) -> None:
    """On test images, at an operating point in the middle; and all of it lies where the user said."""
    attached = calex.attach(
        trained(), ["one", "two"], classes=CLASSES, size=9, pool=3, device="cpu", threads=1, folder=tmp_path / "kept",
        method={"head": {"name": "prototype", "prototypes": 3}} | method,
    )  # fmt: skip
    cascade = attached.fit(TRAIN, VAL, TEST).calibrate(policy, max_flops=2)
    for point in range(0, len(cascade.sweep.parameters), 3):
        cascade.point = point
        answers = cascade.classify(TEST[0])
        accuracy = float((answers.prediction.numpy() == TEST[1]).mean())
        cost = cascade.costs.by_exit()[answers.exit.numpy()].mean() / cascade.costs.backbone
        assert accuracy == pytest.approx(cascade.sweep.curves["test_accuracy"][cascade.point], abs=0.026)
        assert cost == pytest.approx(cascade.sweep.curves["test_flops_fraction"][cascade.point], abs=0.03)
    assert (tmp_path / "kept/features/train.zarr").is_dir() and (tmp_path / "kept/branch2.safetensors").is_file()


def test_without_test_images_nothing_is_said_of_them(tmp_path: Path) -> None:
    method = {"recipe": {"name": "branchwise", "epochs": 1}}
    attached = calex.attach(trained(), ["two"], classes=CLASSES, size=9, device="cpu", threads=1, method=method)
    cascade = attached.fit(TRAIN, VAL).calibrate("global")
    assert np.isnan(cascade.sweep.curves["test_accuracy"]).all() and np.isnan(cascade.sweep.network["test"])
    assert cascade.sweep.curves["val_accuracy"][cascade.point] >= cascade.sweep.network["val"] - 0.01 - 1e-9
    cascade.save(tmp_path / "saved")
    assert "not measured" in (tmp_path / "saved/README.md").read_text()
    loaded = calex.load(tmp_path / "saved", network=trained())
    assert torch.equal(loaded.classify(TEST[0]).exit, cascade.classify(TEST[0]).exit)


def test_branches_of_another_session_are_not_taken_for_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that was kept: what calibration needs to know of the images is not there before `fit` has ended."""
    options: dict[str, Any] = {"classes": CLASSES, "size": 9, "device": "cpu", "threads": 1, "folder": tmp_path}
    options["method"] = {"recipe": {"name": "branchwise", "epochs": 1}}
    first = calex.attach(trained(), ["two"], **options).fit(TRAIN, VAL)
    with pytest.raises(CalexError, match="call fit"):
        calex.attach(trained(), ["two"], **options).calibrate()

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Steps, "train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        first.fit(TRAIN, VAL)
    with pytest.raises(CalexError, match="call fit"):
        first.calibrate()


def test_the_users_own_network_stays_as_it_is() -> None:
    network = trained().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    calex.attach(
        network,
        ["two"],
        classes=CLASSES,
        size=9,
        device="cpu",
        threads=1,
        method={"recipe": {"name": "branchwise", "epochs": 1}},
    ).fit(TRAIN, VAL)
    assert network.training and all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_places_for_branches_are_found_by_themselves() -> None:
    options: dict[str, Any] = {"classes": CLASSES, "size": 8, "device": "cpu", "threads": 1}
    network = build.build("resnet18", "cifar", 4)
    assert calex.attach(network, "auto", **options).taps == ["layer1.0", "layer1", "layer2", "layer3"]
    assert calex.attach(network, "layer2", **options).taps == ["layer2"]
    with pytest.raises(CalexError, match="taps: auto finds no 4 maps in Sequential"):
        calex.attach(three_maps(4), "auto", **options)


def test_a_block_of_the_same_plugin_changes_its_keys_alone() -> None:
    def completed(method: dict[str, Any]) -> dict[str, Any]:
        return calex.attach(trained(), ["one"], classes=CLASSES, size=9, device="cpu", threads=1, method=method).method

    default = completed({})
    for block in ({"epochs": 5}, {"name": "boostnet", "epochs": 5}):
        assert completed({"recipe": block}) == default | {"recipe": default["recipe"] | {"epochs": 5}}
    assert completed({"recipe": {"name": "branchwise"}})["recipe"]["importance"] == "weigh"
    assert completed({"target": {"first": 0.1}})["target"]["temperature"] == 4.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"taps": ["six"]}, "no module 'six'"),
        ({"classes": ["a", "b"]}, r"gives \(2, 4\) for 2 images of 2 classes"),
        ({"method": {"heads": {}}}, "method: unknown key 'heads'"),
        ({"method": {"head": {"name": "prototipe"}}}, "did you mean 'prototype'"),
        ({"method": {"recipe": {"name": "ztw"}, "score": "confidence"}}, "gives no score 'confidence'"),
        ({"method": {"recipe": {"name": "pteenet", "warmup": 30}}}, "warmup: 30 of epochs: 30"),
        ({"name": "resnet18"}, "builds a network of other weights"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], reason: str) -> None:
    options: dict[str, Any] = {"taps": ["one"], "classes": CLASSES, "size": 9, "device": "cpu", "threads": 1} | change
    with pytest.raises(CalexError, match=reason):
        calex.attach(trained(), **options).fit(TRAIN, VAL)


def test_images_that_are_none_are_refused_and_so_is_the_wrong_order() -> None:
    options: dict[str, Any] = {"classes": CLASSES, "size": 9, "device": "cpu", "threads": 1}
    attached = calex.attach(trained(), ["one"], **options)
    with pytest.raises(CalexError, match="call fit"):
        attached.calibrate()
    confident = {"name": "cpm", "score": "confidence"}
    for one, policy, reason in (
        (attached, {"steps": 9}, "a block with a name"),
        (attached, {"name": "cats", "last": "combined"}, "policy.last: 'cats' promises something about the backbone's answers"),
        (attached, {"name": "risk", "path": {"name": "global", "last": "combined"}}, "policy.last: 'risk' promises something"),
        (attached, confident, "policy.score: the recipe 'boostnet' gives no score 'confidence'"),
        (
            calex.attach(trained(), ["one"], method={"recipe": {"name": "branchwise"}}, **options),
            confident,
            "learnt no confidence",
        ),
    ):
        with pytest.raises(CalexError, match=reason):
            one._calibration(policy)
    with pytest.raises(CalexError, match="images must be uint8"):
        attached.fit((TRAIN[0].astype(np.float32), TRAIN[1]), VAL)
    with pytest.raises(CalexError, match="give one size"):
        attached.fit(TRAIN, (VAL[0][:, :8], VAL[1]))
    with pytest.raises(CalexError, match="label 4, outside"):
        attached.fit(TRAIN, (VAL[0], VAL[1] + 1))


def test_a_confidence_that_is_always_learnt_can_be_asked_for() -> None:
    """By a policy, of a method with another score."""
    method = {"recipe": {"name": "pteenet", "epochs": 1}, "target": {"name": "labels"}}
    attached = calex.attach(trained(), ["one", "two"], classes=CLASSES, size=9, device="cpu", threads=1, method=method)
    cascade = attached.fit(TRAIN, VAL).calibrate({"name": "cpm", "score": "confidence"}, max_flops=2.0)
    assert cascade.classify(VAL[0]).exit.shape == (len(VAL[0]),)


def test_labels_that_are_no_whole_numbers_are_refused() -> None:
    images = np.zeros((4, 8, 8, 1), np.uint8)
    whole, halves = np.arange(4) % 2, np.arange(4) / 2
    with pytest.raises(
        CalexError, match=r"^val: labels are float64, not whole numbers; give each image the number of its class$"
    ):
        dataset_of((images, whole), (images, halves), (images, whole), ["a", "b"])
