"""A checkpoint that a user brings: taken as it is, measured, and refused where it does not fit."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from conftest import run_calex
from safetensors.torch import load_file

from calex.files import read_json

SETTINGS = {
    "network": "resnet18", "stem": "cifar", "input_size": 8, "augment": {"shift": 0, "flip": False}, "normalisation": None,
    "training": {}, "seed": 0, "trained_on": ["train", "val"],
}  # fmt: skip


def bring(tiny: Path, checkpoint: Path, out: Path, **changed: str):
    dataset = tiny / "results/digits/images.npz"
    settings = json.dumps(SETTINGS | changed)
    return run_calex(
        "train-backbone", "--dataset", dataset, "--settings", settings, "--checkpoint", checkpoint, "--out", out, "--device", "cpu"
    )  # fmt: skip


def test_a_torch_file_gives_the_same_backbone_without_training(tiny: Path, tmp_path: Path) -> None:
    weights = load_file(tiny / "results/digits/resnet18/backbone.safetensors")
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in weights.items()}}, tmp_path / "mine.pt")
    done = bring(tiny, tmp_path / "mine.pt", tmp_path / "backbone.safetensors")
    assert done.returncode == 0, done.stderr
    assert "warning: the checkpoint was trained on val images" in done.stderr
    trained, brought = read_json(tiny / "results/digits/resnet18/backbone.json"), read_json(tmp_path / "backbone.json")
    assert brought["accuracy"] == trained["accuracy"]
    assert brought["history"] == []
    assert all(torch.equal(tensor, weights[name]) for name, tensor in load_file(tmp_path / "backbone.safetensors").items())


def test_a_checkpoint_of_another_network_is_refused_by_its_tensors(tiny: Path, tmp_path: Path) -> None:
    checkpoint = tiny / "results/digits/resnet18/backbone.safetensors"
    done = bring(tiny, checkpoint, tmp_path / "backbone.safetensors", stem="imagenet")
    assert done.returncode == 2
    assert "does not fit the network: conv1.weight is (64, 3, 3, 3), not (64, 3, 7, 7)" in done.stderr
    assert list(tmp_path.iterdir()) == []
