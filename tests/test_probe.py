"""A new last layer for weights that tell other classes apart: found, trained, chosen on validation images, and told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from torch import nn

from calex import images
from calex.__main__ import main
from calex.backbones import diagnosis, last_layer, probe, training
from calex.backbones.build import build
from calex.backbones.weights import read_weights
from calex.errors import CalexError
from calex.system.files import read_json

torch.set_num_threads(1)


def clouds(count: int, classes: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (N, D) of overlapping classes, of very different scales, two of them constant; labels (N,)."""
    generator, centres = np.random.default_rng(seed), np.random.default_rng(99).normal(size=(classes, width))
    labels = generator.integers(0, classes, count)
    features = (centres[labels] + 2 * generator.normal(size=(count, width))) * 10.0 ** (np.arange(width) % 4) + 5
    features[:, :2] = 7.0, 0.0
    return torch.from_numpy(features.astype(np.float32)), torch.from_numpy(labels)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("penalty", [0.3, 0.01])
def test_a_fit_is_the_minimum_that_scikit_learn_finds(monkeypatch: pytest.MonkeyPatch, penalty: float, bias: bool) -> None:
    features, labels = clouds(300, 4, 8, 0)
    monkeypatch.setattr(probe, "PENALTIES", [penalty])
    monkeypatch.setattr(probe, "ITERATIONS", 300)
    everything = torch.arange(300)
    fitted = probe.fit(features, labels, everything, everything, 4, bias, "probe")
    scale, mean = torch.std_mean(features.double(), 0, correction=0)
    scale[:2] = 1
    mean = mean if bias else torch.zeros_like(mean)
    standard = ((features - mean) / scale).numpy()
    reference = LogisticRegression(C=1 / (penalty * 300), fit_intercept=bias, tol=1e-9, max_iter=10_000).fit(standard, labels)
    expected = reference.predict_log_proba(standard)
    found = torch.nn.functional.linear(features, fitted.weight, fitted.bias).log_softmax(1).numpy()
    assert np.abs(found - expected).max() < 1e-2  # in float32
    assert bool((fitted.bias != 0).any()) == bias
    (tried,) = fitted.tried
    assert tried["val_loss"] == pytest.approx(-expected[np.arange(300), labels].mean(), abs=1e-4)


def test_the_penalty_is_that_of_the_least_loss_on_validation_images(monkeypatch: pytest.MonkeyPatch) -> None:
    features, labels = clouds(60, 4, 30, 0)
    val_features, val_labels = clouds(400, 4, 30, 1)
    both = torch.cat([val_features, features]), torch.cat([val_labels, labels]), torch.arange(400, 460), torch.arange(400)
    fitted = probe.fit(*both, 4, True, "probe")
    losses = [one["val_loss"] for one in fitted.tried]
    best = int(np.argmin(losses))
    assert fitted.penalty == fitted.tried[best]["penalty"] and 0 < best == len(losses) - 1 - probe.PATIENCE
    logits = nn.functional.linear(val_features, fitted.weight, fitted.bias)
    assert nn.functional.cross_entropy(logits, val_labels).item() == pytest.approx(losses[best], abs=1e-4)
    assert (probe.answers(val_features, fitted) == logits.argmax(1).numpy()).all()
    monkeypatch.setattr(probe, "CHUNK", 31 * 7)  # seven images at a time
    again = probe.fit(*both, 4, True, "probe")
    assert again.penalty == fitted.penalty and torch.allclose(again.weight, fitted.weight, rtol=1e-2, atol=1e-4)
    assert (probe.answers(val_features, fitted) == logits.argmax(1).numpy()).all()


FAMILIES = {
    "resnet18": "fc",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "efficientnet_b0": "classifier.1",
    "densenet121": "classifier",
    "shufflenet_v2_x0_5": "fc",
    "regnet_y_400mf": "fc",
    "convnext_tiny": "classifier.2",
    "swin_t": "head",
}


@pytest.mark.parametrize("network", FAMILIES)
def test_the_last_layer_is_found_by_what_it_gives(network: str) -> None:
    found = last_layer.find(build(network, "imagenet", 7), network, (3, 32, 32))
    assert (found.name, found.auxiliary) == (FAMILIES[network], [])


def small_transformer() -> nn.Module:
    from calex.backbones.vision import models

    return models.VisionTransformer(32, 16, 1, 2, 16, 32, num_classes=7)


def test_a_transformers_last_layer_is_found_although_it_gives_zeros_at_first() -> None:
    found = last_layer.find(small_transformer(), "vit", (3, 32, 32))
    assert (found.name, found.auxiliary) == ("heads.head", [])


def test_heads_that_only_training_asks_are_no_last_layer() -> None:
    found = last_layer.find(build("googlenet", "imagenet", 7), "googlenet", (3, 64, 64))
    assert (found.name, found.auxiliary) == ("fc", ["aux1.fc2", "aux2.fc2"])


class Squared(nn.Module):
    """Ends in something else than its last linear layer."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.linear = linear

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.linear(inputs.flatten(1)) ** 2


def ends_in(*modules: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *modules)


def test_networks_of_ones_own_end_as_they_like() -> None:
    def found(network: nn.Module, declared: str | None = None) -> str:
        return last_layer.find(network, "own:net", (3, 4, 4), declared).name

    assert found(ends_in(nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 5))) == "3"
    assert found(ends_in(nn.Linear(48, 5), nn.LogSoftmax(1))) == "1"
    assert found(ends_in(nn.Linear(48, 5), nn.Dropout(0.5))) == "1"
    assert found(Squared(nn.Linear(48, 5)), "linear") == "linear"
    parametrised = ends_in(nn.utils.parametrizations.weight_norm(nn.Linear(48, 5)))
    for network, declared, told in (
        (
            Squared(nn.Linear(48, 5)),
            None,
            "own:net does not end in a linear layer (its linear layers: linear); name the one that",
        ),
        (ends_in(nn.Unflatten(1, (3, 4, 4)), nn.Conv2d(3, 5, 4), nn.Flatten()), None, "(its linear layers: none)"),
        (Squared(nn.Linear(48, 5)), "liner", "last_layer: own:net has no linear layer 'liner', did you mean 'linear'?"),
        (ends_in(nn.Linear(48, 6), nn.Linear(6, 5)), "1", "last_layer: '1' of own:net does not give one output a class"),
        (parametrised, None, "the weights of '1' of own:net are computed from others (a parametrisation); remove it"),
        (ends_in(nn.Linear(47, 5)), None, "network: own:net cannot read images of 4 px (RuntimeError"),
    ):
        with pytest.raises(CalexError) as caught:
            found(network, declared)
        assert told in str(caught.value) and "\n" not in str(caught.value)


# The step.

NET = """
from torch import nn

def net(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, classes)
    )

class WithAuxiliary(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = net(classes)
        self.auxiliary = nn.Linear(8, classes)

    def forward(self, images):
        logits = self.body(images)
        return (logits, self.auxiliary(self.body[0](images).mean((2, 3)))) if self.training else logits

def with_auxiliary(classes):
    return WithAuxiliary(classes)

def ends_otherwise(classes):
    return nn.Sequential(nn.Conv2d(3, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
SETTINGS = {
    "network": "probed_net:net", "stem": "imagenet", "input_size": 8, "augment": {"shift": 0, "flip": False}, "normalisation": None,
    "training": {}, "seed": 0, "trained_on": ["elsewhere"], "head_holdout": 0, "checkpoint_key": None, "expected_accuracy": None,
    "head": "probe", "last_layer": None,
}  # fmt: skip
CLASSES = 3


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with images whose classes differ in where they are bright, a network, and weights of it for 1,000 classes."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % CLASSES
    pixels = generator.integers(0, 150, (240, 8, 8, 3), dtype=np.uint8)
    for number, label in enumerate(labels):
        pixels[number, 4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 90
    split = np.repeat(np.arange(3, dtype=np.uint8), 80)
    images.save(tmp_path / "images.npz", images.Images(pixels, labels.astype(np.int64), split, np.array(["a", "b", "c"])))
    (tmp_path / "probed_net.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "probed_net", raising=False)
    torch.manual_seed(0)
    torch.save(build("probed_net:net", "imagenet", 1000).state_dict(), "wide.pt")
    return tmp_path


def bring(capsys: pytest.CaptureFixture[str], checkpoint: str = "wide.pt", **changed: object) -> SimpleNamespace:
    capsys.readouterr()
    arguments = ["--checkpoint", checkpoint, "--out", "out/backbone.safetensors", "--device", "cpu", "--threads", "1"]
    code = main(["train-backbone", "--dataset", "images.npz", "--settings", json.dumps(SETTINGS | changed), *arguments])
    return SimpleNamespace(code=code, words=capsys.readouterr().err)


@pytest.mark.parametrize("kind", ["of other classes", "without its last layer", "in a wrapper"])
def test_weights_of_other_classes_get_a_new_last_layer(place: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    wide = torch.load("wide.pt", weights_only=True)
    if kind == "without its last layer":
        torch.save({name: tensor for name, tensor in wide.items() if not name.startswith("5.")}, "wide.pt")
    elif kind == "in a wrapper":
        torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in wide.items()}}, "wide.pt")
    done = bring(capsys)
    assert done.code == 0, done.words
    assert "a new 5 of 3 outputs is trained on 80 images" in done.words and "warning" not in done.words
    written, about = load_file("out/backbone.safetensors"), read_json("out/backbone.json")
    for name, tensor in written.items():
        assert name.startswith("5.") or torch.equal(tensor, wide[name]), name
    assert written["5.weight"].shape == (CLASSES, 32)
    assert about["trained_on"] == ["elsewhere", "5: 80 train images"] and about["history"] == []
    assert about["last_layer"]["name"] == "5" and about["last_layer"]["features"] == 32
    assert min(about["accuracy"].values()) > 0.9
    # What is written answers as the record says.
    dataset, model = images.load("images.npz"), build("probed_net:net", "imagenet", CLASSES)
    read_weights(model, Path("out/backbone.safetensors"))
    for split in images.SPLITS:
        index = dataset.indices(split)
        answers = training.predictions(model, dataset.images[index], about["transform"], torch.device("cpu"))
        assert (answers == dataset.labels[index]).mean() == pytest.approx(about["accuracy"][split], abs=1e-9)


def test_auxiliary_heads_of_other_classes_are_left_out(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save(build("probed_net:with_auxiliary", "imagenet", 1000).state_dict(), "wide.pt")
    done = bring(capsys, network="probed_net:with_auxiliary")
    assert done.code == 0, done.words
    assert read_json("out/backbone.json")["last_layer"]["name"] == "body.5"
    assert load_file("out/backbone.safetensors")["auxiliary.weight"].shape == (CLASSES, 8)


def test_images_that_are_kept_for_the_branches_train_no_last_layer(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = bring(capsys, head_holdout=0.5)
    assert done.code == 0 and "is trained on 40 images" in done.words
    assert read_json("out/backbone.json")["trained_on"] == ["elsewhere", "5: 40 train images"]


def test_what_does_not_fit_is_refused_with_and_without_a_probe(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = bring(capsys, head=None)
    assert done.code == 2 and "it has 1000 classes and the dataset has 3: set `head: probe` for a new last layer" in done.words
    wide = torch.load("wide.pt", weights_only=True)
    torch.save(wide | {"0.weight": torch.ones(9, 3, 3, 3)}, "other.pt")
    done = bring(capsys, "other.pt")
    assert done.code == 2 and "other.pt: does not fit the network: 0.weight is (9, 3, 3, 3), not (8, 3, 3, 3)" in done.words
    assert "5." not in done.words.split("; the file holds")[0]
    done = bring(capsys, network="probed_net:ends_otherwise")
    assert done.code == 2 and "head: probed_net:ends_otherwise does not end in a linear layer" in done.words
    assert not Path("out/backbone.safetensors").exists()


def test_features_that_say_nothing_are_told(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = torch.load("wide.pt", weights_only=True)
    torch.save(wide | {"0.weight": torch.zeros(8, 3, 3, 3), "0.bias": torch.zeros(8)}, "empty.pt")
    done = bring(capsys, "empty.pt", expected_accuracy=0.9)
    (warning,) = read_json("out/backbone.json")["warnings"]
    assert done.code == 0 and f"warning: train-backbone probed_net:net: {warning}" in done.words
    assert "with its new last layer the checkpoint answers 33.8% of 80 validation images right, no better than" in warning
    assert "normalisation, here" in warning and "order of classes" not in warning


def test_an_accuracy_far_below_the_expected_one_is_told_of_validation_images() -> None:
    labels = np.repeat(np.arange(4), 50)
    answers = np.where(np.arange(200) % 10 < 6, labels, (labels + 1) % 4)
    chosen, scale = {"normalisation": {}, "expected_accuracy": 0.9}, {"size": 8, "mean": [0.5], "std": [0.5]}
    (line,) = diagnosis.of_probe(answers, labels, chosen, ["model_ema"], scale)
    assert "60.0% of 200 validation images right, and expected_accuracy says 90.0%" in line and "model_ema" in line
    assert diagnosis.of_probe(answers, labels, chosen | {"expected_accuracy": 0.6}, [], scale) == []
