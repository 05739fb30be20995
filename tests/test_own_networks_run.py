"""Networks of a user's own that are wrapped, compiled or grey: trained, measured and cached by processes of their own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from PIL import Image
from safetensors.torch import load_file

from calex import images
from calex.__main__ import main
from calex.system.files import read_json

NETWORKS = '''
import torch
from torch import compile, nn
from torch.optim.swa_utils import AveragedModel


def plain(classes, channels=3):
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )


def compiled(classes):
    return compile(plain(classes))


def compiled_in_place(classes):
    network = plain(classes)
    network.compile()
    return network


def compiled_part(classes):
    network = plain(classes)
    network[2] = compile(network[2])
    return network


class Wrapped(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.module = plain(classes)

    def forward(self, images):
        return self.module(images)


def wrapped(classes):
    return Wrapped(classes)


class CompiledForward(Wrapped):
    """Not a module but a function is compiled, which nobody sees from outside."""

    def __init__(self, classes):
        super().__init__(classes)
        self.forward = compile(self.forward)


def compiled_forward(classes):
    return CompiledForward(classes)


def parallel(classes):
    return nn.DataParallel(plain(classes))


def parallel_compiled(classes):
    return nn.DataParallel(compile(plain(classes)))


def averaged(classes):
    return AveragedModel(plain(classes))


def grey(classes):
    return plain(classes, 1)


class Flat(nn.Module):
    """No convolution says how many channels it reads."""

    def __init__(self, classes):
        super().__init__()
        self.map = nn.Unflatten(1, (1, 8, 8))
        self.head = nn.Linear(64, classes)

    def forward(self, images):
        return self.head(self.map(images.flatten(1)).flatten(1))


def flat(classes):
    return Flat(classes)


def four_channels(classes):
    return plain(classes, 4)


def softmaxed(classes):
    return nn.Sequential(plain(classes), nn.Softmax(1))


class OnlyInEvaluation(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.body = plain(classes)

    def forward(self, images):
        return self.body(images) if self.training else self.body(images).softmax(1)


def only_in_evaluation(classes):
    return OnlyInEvaluation(classes)


def decorated(classes):
    return Decorated(classes)


class Decorated(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.module = plain(classes)

    @torch.compile
    def forward(self, images):
        return self.module(images)


def lazy(classes):
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))


def old_weight_norm(classes):
    network = plain(classes)
    nn.utils.weight_norm(network[0])
    return network


def scripted(classes):
    return torch.jit.script(plain(classes))


def double(classes):
    return plain(classes).double()


def on_meta(classes):
    with torch.device("meta"):
        return plain(classes)


def frozen(classes):
    return plain(classes).requires_grad_(False)


def log_softmaxed(classes):
    return nn.Sequential(plain(classes), nn.LogSoftmax(1))
'''
# name: (taps, channels that it reads)
WORK = {
    "compiled": (["0", "2"], 3),
    "compiled_in_place": (["0", "2"], 3),
    "compiled_part": (["0", "2"], 3),
    "compiled_forward": (["module.0", "module.2"], 3),
    "wrapped": (["module.0", "module.2"], 3),
    "parallel": (["0", "2"], 3),
    "parallel_compiled": (["0", "2"], 3),
    "averaged": (["0", "2"], 3),
    "grey": (["0", "2"], 1),
    "flat": (["map"], 1),
    "log_softmaxed": (["0.0", "0.2"], 3),
    "decorated": (["module.0", "module.2"], 3),
}
TRAINING = {
    "epochs": 1, "batch_size": 8, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "label_smoothing": 0.0, "schedule": "cosine",
    "compute": "float32",
}  # fmt: skip
BACKBONE = {
    "stem": "imagenet", "input_size": 8, "augment": {"shift": 0, "flip": False}, "head_holdout": 0, "normalisation": None, "training": TRAINING,
    "seed": 0, "trained_on": ["train"],
}  # fmt: skip
DUMP = {"views": 1, "precision": "float32", "codec": "none", "compute": "float32", "batch_size": 8, "order_seed": 0}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 48 grey images of two classes, as many of three colours, and the networks."""
    folder = tmp_path_factory.mktemp("own")
    generator = np.random.default_rng(0)
    labels, split = np.arange(48) % 2, (np.arange(48) // 2 % 3).astype(np.uint8)
    for name, channels in (("grey", 1), ("colour", 3)):
        pixels = (
            generator.integers(0, 120, (48, 8, 8, channels), dtype=np.uint8)
            + (labels * 120).astype(np.uint8)[:, None, None, None]
        )
        images.save(folder / f"{name}.npz", images.Images(pixels, labels.astype(np.int64), split, np.array(["a", "b"])))
    (folder / "own_wrapped.py").write_text(NETWORKS)
    return folder


def calex(place: Path, *arguments: object, apart: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m calex …` in the folder; `apart` in a process of its own, else as one that has not loaded the networks yet."""
    words = [*map(str, arguments)]
    if apart:
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        command = [sys.executable, "-m", "calex", *words]
        return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    sys.modules.pop("own_wrapped", None)
    errors = io.StringIO()
    with contextlib.chdir(place), pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(errors):
        patch.setattr(sys, "path", list(sys.path))
        return subprocess.CompletedProcess(words, main(words), "", errors.getvalue())


def train(place: Path, name: str, dataset: str = "grey", *more: object, **changed: object) -> subprocess.CompletedProcess[str]:
    settings = json.dumps(BACKBONE | {"network": f"own_wrapped:{name}"} | changed)
    target = ["--out", f"{name}/backbone.safetensors", "--device", "cpu", "--threads", "1"]
    return calex(place, "train-backbone", "--dataset", f"{dataset}.npz", "--settings", settings, *target, *more)


def measure(place: Path, name: str, taps: list[str]) -> subprocess.CompletedProcess[str]:
    settings = json.dumps({"network": f"own_wrapped:{name}", "stem": "imagenet", "input_size": 8, "taps": taps, "pool": 4})
    return calex(place, "measure-taps", "--dataset", "grey.npz", "--settings", settings, "--out", f"{name}/taps.json")


@pytest.mark.parametrize("name", WORK)
def test_a_wrapped_network_is_trained_measured_and_cached(place: Path, name: str) -> None:
    taps, channels = WORK[name]
    for done in (train(place, name), measure(place, name, taps)):
        assert done.returncode == 0, done.stderr
    about = read_json(place / name / "backbone.json")
    assert len(about["transform"]["mean"]) == channels and about["history"]
    done = calex(
        place, "cache-features", "--dataset", "grey.npz", "--backbone", f"{name}/backbone.safetensors", "--taps", f"{name}/taps.json",
        "--split", "val", "--settings", json.dumps(DUMP), "--device", "cpu", "--threads", "1", "--out", f"{name}/features",
        apart=name == "compiled",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    manifest = read_json(place / name / "features/val.json")
    assert manifest["provenance"]["transform"] == about["transform"]
    measured = read_json(place / name / "taps.json")
    assert measured["flops"] == about["flops"] > 0
    if channels == 1 and name == "grey":  # 9 multiply-adds for each of 8·4·4 outputs, then 72 for 16·2·2
        assert measured["flops"] == 2 * (9 * 8 * 16 + 72 * 16 * 4 + 16 * 2)
        assert [tap["full_shape"] for tap in measured["taps"]] == [[8, 4, 4], [16, 2, 2]]
    written = load_file(place / name / "backbone.safetensors")
    assert not any("_orig_mod" in tensor for tensor in written)
    if name in ("wrapped", "compiled_part", "parallel"):  # one's own weights, brought as a checkpoint in a usual wrapper
        torch.save({"state_dict": {f"module._orig_mod.{key}": value for key, value in written.items()}}, place / f"{name}.pt")
        again = train(place, name, "grey", "--checkpoint", f"{name}.pt", "--out", f"{name}_again/backbone.safetensors")
        assert again.returncode == 0, again.stderr
        assert read_json(place / f"{name}_again/backbone.json")["accuracy"] == about["accuracy"]


@pytest.mark.parametrize(
    ("name", "dataset", "told"),
    [
        ("softmaxed", "grey", "answers with probabilities (rows sum to 1, as after a softmax); end it in logits"),
        ("only_in_evaluation", "grey", "answers with probabilities"),
        ("four_channels", "grey", "its first convolution reads 4 channels, and images have 3, or 1 (grey)"),
        ("lazy", "grey", "has no weights in 1.weight before images have passed (a lazy module); give that module its sizes"),
        ("old_weight_norm", "grey", "cannot be copied (RuntimeError: Only Tensors created explicitly by the user"),
        (
            "scripted",
            "grey",
            "gives a TorchScript program, whose modules cannot be tapped; return the network that it was made of",
        ),
        ("double", "grey", "has 0.weight in float64; return it in float32"),
        ("on_meta", "grey", "has no data in 0.weight (the meta device); build it on the CPU"),
        ("frozen", "grey", "has no weights that train (requires_grad); bring a checkpoint or let them train"),
    ],
)
def test_networks_that_would_be_misread_are_refused(place: Path, tmp_path: Path, name: str, dataset: str, told: str) -> None:
    done = train(place, name, dataset, "--out", tmp_path / "backbone.safetensors")
    assert done.returncode == 2 and f"network: own_wrapped:{name} " in done.stderr and told in done.stderr
    assert done.stderr.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_probabilities_are_refused_before_anything_trains(place: Path) -> None:
    done = measure(place, "softmaxed", ["0.0"])
    assert done.returncode == 2 and "end it in logits" in done.stderr


@pytest.mark.parametrize(
    ("mean", "std", "told"),
    [
        ([123.7, 116.3, 103.5], [58.4, 57.1, 57.4], "is not in units where white is 1; divide numbers of 0..255 by 255"),
        ([0.5, 0.5, 0.5], [127.5, 127.5, 127.5], "std [127.5, 127.5, 127.5] is not in units where white is 1"),
        ([0.5, 0.5, 0.5], [0.2, 0, 0.2], "std [0.2, 0, 0.2] is no std of pixels between 0 and 1"),
        ([-0.1, 0.5, 0.5], [0.2, 0.2, 0.2], "is no mean of pixels between 0 and 1"),
        ([0.5, 0.5], [0.2], "mean has 2 numbers and the network reads 3 channels; give 3"),
    ],
)
def test_a_normalisation_that_is_certainly_wrong_is_refused(place: Path, mean: list, std: list, told: str) -> None:
    done = train(place, "plain", normalisation={"mean": mean, "std": std})
    assert done.returncode == 2 and told in done.stderr and done.stderr.count("\n") == 1


def test_one_number_normalises_every_channel(place: Path) -> None:
    assert train(place, "plain", normalisation={"mean": [0.5], "std": [0.25]}).returncode == 0
    transform = read_json(place / "plain/backbone.json")["transform"]
    assert (transform["mean"], transform["std"]) == ([0.5] * 3, [0.25] * 3)


def test_a_network_of_one_channel_reads_coloured_images_as_grey_ones(place: Path, tmp_path: Path) -> None:
    coloured = images.load(place / "colour.npz")
    pixels = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in coloured.images])[..., None]
    images.save(tmp_path / "made_grey.npz", images.Images(pixels, coloured.labels, coloured.split, coloured.names))
    for name, dataset in (("of_colour", place / "colour"), ("of_grey", tmp_path / "made_grey")):
        done = train(place, "grey", str(dataset), "--out", tmp_path / f"{name}.safetensors")
        assert done.returncode == 0, done.stderr
    of_colour, of_grey = (read_json(tmp_path / f"{name}.json") for name in ("of_colour", "of_grey"))
    assert of_colour["transform"] == of_grey["transform"] and len(of_grey["transform"]["mean"]) == 1
    assert of_colour["fingerprint"] == of_grey["fingerprint"]  # the same weights, to the bit
