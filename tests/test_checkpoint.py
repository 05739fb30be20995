"""A checkpoint that a user brings: taken as it is, measured, and refused where it does not fit."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, run_calex
from safetensors.torch import load_file, save_file

from calex import config, images
from calex.__main__ import main
from calex.backbones.build import build
from calex.errors import CalexError
from calex.system import precision
from calex.system.files import read_json, write_json

SETTINGS = {
    "network": "resnet18", "stem": "cifar", "input_size": 8, "augment": {"shift": 0, "flip": False}, "normalisation": None,
    "training": {}, "seed": 0, "trained_on": ["train", "val"], "head_holdout": 0,
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
    assert "warning: train-backbone resnet18: the weights were trained on val images" in done.stderr
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


# What a config says of a checkpoint.


def config_with(**backbone: object) -> dict:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    content["backbones"]["resnet18"] |= backbone
    return content


def checked(content: dict) -> dict:
    return config.validated(content, config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml"), "c.yaml")


def test_a_tilde_is_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "w.pt").touch()
    content = config_with(checkpoint="~/w.pt")
    content["datasets"]["digits"]["source"] = {"name": "imagefolder", "folder": "~/photos"}
    content["benchmarks"] = {"folder": "~/scratch"}
    whole = checked(content)
    assert whole["backbones"]["resnet18"]["checkpoint"] == f"{tmp_path}/w.pt"
    assert whole["datasets"]["digits"]["source"]["folder"] == f"{tmp_path}/photos"
    assert whole["benchmarks"]["folder"] == f"{tmp_path}/scratch"
    with pytest.raises(
        CalexError,
        match=r"backbones\.resnet18\.checkpoint: '~nobody_here/w\.pt' begins with the home folder of an unknown user",
    ):
        checked(config_with(checkpoint="~nobody_here/w.pt"))


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"checkpoint_key": "ema"}, "checkpoint_key: is of a checkpoint, and there is none"),
        ({"expected_accuracy": 0.9}, "expected_accuracy: is of a checkpoint, and there is none"),
        ({"head": "probe"}, "head: is of a checkpoint, and there is none"),
        ({"head": "prob"}, "head: unknown value 'prob', did you mean 'probe'"),
        ({"last_layer": "fc"}, "last_layer: is of a probe, and there is none; set `head: probe` or remove the key"),
        ({"expected_accuracy": 93}, r"expected_accuracy: 93 is greater than the maximum of 1 \(the share of training images"),
        ({"normalisation": {"mean": [0.5], "std": [0.0]}}, r"normalisation\.std\.0: 0\.0 is less than or equal to .*above 0"),
        (
            {"normalisation": {"mean": [123.7] * 3, "std": [0.2] * 3}},
            r"normalisation\.mean\.[012]: 123\.7 is greater .*divide numbers of 0\.\.255 by 255",
        ),
        (
            {"normalisation": {"mean": [0.5] * 3, "std": [58.4] * 3}},
            r"normalisation\.std\.[012]: 58\.4 is greater .*divide numbers of 0\.\.255 by 255",
        ),
    ],
)
def test_what_is_certainly_wrong_of_a_checkpoint_ends_the_run_before_any_job(backbone: dict, message: str) -> None:
    with pytest.raises(CalexError, match=rf"(?s)c\.yaml: .*backbones\.resnet18\.{message}"):
        checked(config_with(**backbone))


# What does not belong together is refused where features are cached.

NET = """
from torch import nn

def net(classes):
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""
DUMP = {"views": 1, "precision": "float16", "codec": "none", "compute": "float32", "batch_size": 8, "order_seed": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset, a network of one's own, its weights and its taps; nobody may change what is in it."""
    folder = tmp_path_factory.mktemp("whole")
    generator = np.random.default_rng(0)
    for name, count in (("images", 24), ("others", 36)):
        pixels = generator.integers(0, 256, (count, 8, 8, 1), dtype=np.uint8)
        labels, split = np.arange(count) % 2, (np.arange(count) // 2 % 3).astype(np.uint8)
        images.save(folder / f"{name}.npz", images.Images(pixels, labels.astype(np.int64), split, np.array(["a", "b"])))
    (folder / "brought_net.py").write_text(NET)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        torch.save(build("brought_net:net", "imagenet", 2).state_dict(), folder / "brought.pt")
        settings = json.dumps(SETTINGS | {"network": "brought_net:net", "stem": "imagenet"})
        brought = ["--checkpoint", "brought.pt", "--out", "backbone.safetensors", "--device", "cpu", "--threads", "1"]
        assert main(["train-backbone", "--dataset", "images.npz", "--settings", settings, *brought]) == 0
        assert measure_taps("imagenet", 8) == 0
    return folder


def measure_taps(stem: str, size: int) -> int:
    settings = {"network": "brought_net:net", "stem": stem, "input_size": size, "taps": ["0"], "pool": 4}
    return main(["measure-taps", "--dataset", "images.npz", "--settings", json.dumps(settings), "--out", "taps.json"])


@pytest.fixture
def copied(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    monkeypatch.delitem(sys.modules, "brought_net", raising=False)  # as in a process of its own
    return tmp_path / "copy"


def cache(dataset: str = "images.npz", split: str = "val", **changed: object) -> int:
    arguments = ["--dataset", dataset, "--backbone", "backbone.safetensors", "--taps", "taps.json", "--split", split]
    return main(
        [
            "cache-features",
            *arguments,
            "--settings",
            json.dumps(DUMP | changed),
            "--device",
            "cpu",
            "--threads",
            "1",
            "--out",
            "features",
        ]
    )


def test_a_dump_in_another_hour_has_the_same_manifest(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its precision was measured once, for all splits; the times are not in what later rules compare."""
    monkeypatch.setattr(precision, "measure", lambda *_: {"float32": 0.2, "bfloat16": 0.1})
    assert cache(compute="auto") == 0
    manifest = Path("features/val.json").read_bytes()
    monkeypatch.setattr(precision, "measure", lambda *_: {"float32": 0.1, "bfloat16": 8.0})
    assert cache(compute="auto") == 0
    assert Path("features/val.json").read_bytes() == manifest
    assert cache(compute="auto", split="test") == 0
    for split in ("val", "test"):
        assert read_json(f"features/{split}.json", "provenance")["provenance"]["compute"] == "bfloat16"
    assert read_json("features/precision.json")["seconds"] == {"float32": 0.2, "bfloat16": 0.1}


def refused(capsys: pytest.CaptureFixture[str], dataset: str = "images.npz") -> str:
    """The one line with which caching ends; nothing was written."""
    capsys.readouterr()
    assert cache(dataset) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and not Path("features").exists()
    return message


def test_what_belongs_together_is_cached(copied: Path) -> None:
    assert cache() == 0
    assert (copied / "features/val.json").is_file()


def test_features_of_another_version_of_the_dataset_are_refused(copied, capsys) -> None:
    assert "trained on another version of others.npz; rerun train-backbone" in refused(capsys, "others.npz")


def test_weights_that_do_not_belong_to_their_json_are_refused(copied, capsys) -> None:
    weights = load_file("backbone.safetensors")
    save_file({name: tensor + 1 for name, tensor in weights.items()}, "backbone.safetensors")
    assert "not the weights that backbone.json describes; rerun train-backbone" in refused(capsys)


@pytest.mark.parametrize("changed", [{"network": "resnet18"}, {"stem": "cifar"}, {"input_size": 16}])
def test_taps_of_another_network_stem_or_size_are_refused(copied, capsys, changed) -> None:
    write_json("taps.json", read_json("taps.json") | changed)
    assert "taps.json: measured on another network, stem or input size than" in refused(capsys)


def test_a_network_whose_source_has_changed_is_refused(copied, capsys) -> None:
    (copied / "brought_net.py").write_text(NET.replace("ReLU", "GELU"))
    assert "the source of brought_net:net is not what it was then; rerun train-backbone" in refused(capsys)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("backbone.json", "{}", "'network' is a required property; delete it and rerun train-backbone"),
        ("backbone.json", "[]", "[] is not of type 'object'; delete it and rerun train-backbone"),
        ("backbone.json", "{", "not valid JSON"),
        ("taps.json", "{}", "'network' is a required property; delete it and rerun measure-taps"),
        ("taps.json", "3", "3 is not of type 'object'"),
        (
            "backbone.json",
            {"transform": {"size": 8, "mean": "grey", "std": [1, 1, 1]}},
            "transform: mean: 'grey' is not of type",
        ),
        ("backbone.json", {"classes": "two"}, "classes: 'two' is not of type 'integer'"),
        ("backbone.json", {"augment": None}, "augment: None is not of type 'object'"),
        ("taps.json", {"taps": []}, "taps: [] should be non-empty"),
        ("taps.json", {"taps": [{"name": "0", "flops": 3, "shape": [4, 4]}]}, "taps: 0: shape: [4, 4] is too short"),
        ("taps.json", {"pool": "all"}, "pool: 'all' is not of type"),
    ],
)
def test_records_that_hold_something_else_are_one_line(copied, capsys, file, content, message) -> None:
    if isinstance(content, str):
        Path(file).write_text(content)
    else:
        write_json(file, read_json(file) | content)
    line = refused(capsys)
    assert f"error: {file}: " in line and message in line


def test_a_head_of_a_thousand_classes_is_to_be_fine_tuned_first(copied, capsys) -> None:
    torch.save(build("brought_net:net", "imagenet", 1000).state_dict(), "wide.pt")
    settings = json.dumps(SETTINGS | {"network": "brought_net:net", "stem": "imagenet"})
    brought = ["--checkpoint", "wide.pt", "--out", "new/backbone.safetensors", "--device", "cpu", "--threads", "1"]
    capsys.readouterr()
    assert main(["train-backbone", "--dataset", "images.npz", "--settings", settings, *brought]) == 2
    assert (
        "wide.pt: does not fit the network: 4.weight is (1000, 4), not (2, 4); 4.bias is (1000,), not (2,); "
        "it has 1000 classes and the dataset has 2: set `head: probe` for a new last layer, or fine-tune it"
        in capsys.readouterr().err
    )
    assert list(Path("new").iterdir()) == []


def test_taps_of_a_network_that_cannot_read_the_images_are_one_line(copied, capsys) -> None:
    settings = {"network": "alexnet", "stem": "imagenet", "input_size": 8, "taps": ["features.0"], "pool": 8}
    capsys.readouterr()
    assert main(["measure-taps", "--dataset", "images.npz", "--settings", json.dumps(settings), "--out", "new.json"]) == 2
    message = capsys.readouterr().err
    assert "network: alexnet cannot read images of 8 px" in message and message.count("\n") == 1
    assert not Path("new.json").exists()


def test_a_checkpoint_with_a_weight_that_is_no_number_is_refused(copied, capsys) -> None:
    weights = torch.load("brought.pt", weights_only=True)
    weights["4.bias"][1] = float("nan")
    torch.save(weights, "nan.pt")
    settings = json.dumps(SETTINGS | {"network": "brought_net:net", "stem": "imagenet"})
    arguments = ["--checkpoint", "nan.pt", "--out", "new/backbone.safetensors", "--device", "cpu", "--threads", "1"]
    capsys.readouterr()
    assert main(["train-backbone", "--dataset", "images.npz", "--settings", settings, *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "nan.pt: 4.bias holds values that are not finite" in line
    assert [path for path in Path("new").rglob("*") if path.is_file()] == []


def bring_own(capsys, content: object, dataset: str = "images.npz", **changed: object) -> tuple[int, str]:
    """The exit code and the words of train-backbone with a checkpoint of the small network."""
    torch.save(content, "own.pt")
    settings = json.dumps(SETTINGS | {"network": "brought_net:net", "stem": "imagenet", "trained_on": ["train"]} | changed)
    arguments = ["--checkpoint", "own.pt", "--out", "own/backbone.safetensors", "--device", "cpu", "--threads", "1"]
    capsys.readouterr()
    code = main(["train-backbone", "--dataset", dataset, "--settings", settings, *arguments])
    return code, capsys.readouterr().err


def test_what_looks_wrong_stands_in_the_log_and_in_the_record(copied, capsys) -> None:
    """Labels have nothing to do with these images: no weights are better than chance on them."""
    raw = torch.load("brought.pt", weights_only=True)
    averaged = {name: tensor * 0.5 for name, tensor in raw.items()}
    held = {"model": raw | {"criterion.weight": torch.ones(2)}, "model_ema": averaged, "args": {"img_size": 224}}
    code, words = bring_own(capsys, held)
    assert code == 0
    warnings = read_json("own/backbone.json")["warnings"]
    assert [f"warning: train-backbone brought_net:net: {warning}" for warning in warnings] == [
        line for line in words.splitlines() if line.startswith("warning: train-backbone")
    ]
    several, left_out, size, chance = warnings
    assert "'model' was taken, and there is model_ema; checkpoint_key chooses" in several
    assert left_out == "1 tensors of the checkpoint are no part of the network and left out: criterion.weight"
    assert "the checkpoint says img_size: 224, and input_size is 8" in size
    assert "no better than always naming the largest class (50.0%)" in chance and "checkpoint_key: model_ema" in chance
    code, words = bring_own(capsys, held, checkpoint_key="model_ema")
    assert code == 0 and "checkpoint_key chooses" not in words
    assert torch.equal(load_file("own/backbone.safetensors")["0.weight"], averaged["0.weight"])
    code, words = bring_own(capsys, held, checkpoint_key="model_emma")
    assert code == 2 and "own.pt: checkpoint_key: nothing under 'model_emma', did you mean 'model_ema'?" in words


def test_a_checkpoint_with_its_classes_in_another_order_is_refused(copied, capsys) -> None:
    held = {"state_dict": torch.load("brought.pt", weights_only=True), "class_to_idx": {"b": 0, "a": 1}}
    code, words = bring_own(capsys, held)
    assert (
        code == 2
        and "own.pt: its 'class_to_idx' has the classes in another order than the dataset, [b, a] and not [a, b]" in words
    )
    assert not Path("own/backbone.safetensors").exists()
