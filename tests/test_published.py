"""Weights that torchvision publishes: had from torch's cache folder, read as they were trained, and refused in one line."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import dataset_files
import numpy as np
import polars as pl
import pytest
import torch
import yaml
from conftest import REPOSITORY, run_snakemake
from safetensors.torch import load_file
from test_own_parts import blocks, section, write

from calex import config, images
from calex.__main__ import main
from calex.backbones import published, published_file
from calex.backbones.build import build
from calex.backbones.transform import to_input
from calex.backbones.vision import models
from calex.errors import CalexError
from calex.system.files import read_json

torch.set_num_threads(1)
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder of torch, on a machine that reaches nothing."""

    def download(url: str, *_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    folder = tmp_path / "torch/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


def entry(network: str, name: str = "IMAGENET1K_V1") -> published.Entry:
    return published.entry(network, name)


def put(network: str, **more: Any) -> dict[str, torch.Tensor]:
    """Random weights in the cache folder, under the name of the published ones."""
    torch.manual_seed(1)
    weights = models.get_model(network, weights=None, **more).state_dict()
    torch.save(weights, published_file.path_of(entry(network)))
    return weights


def test_a_name_is_one_of_the_networks_own() -> None:
    assert entry("resnet50", "DEFAULT") is entry("resnet50", "IMAGENET1K_V2") is not entry("resnet50")
    assert published.entry("resnet50", None) is None
    for network, name, told in (
        ("resnet18", "IMAGENET1K_V2", "weights: resnet18 has no 'IMAGENET1K_V2', did you mean 'IMAGENET1K_V1'?"),
        ("resnet18", "imagenet", "weights: resnet18 has no 'imagenet', known: DEFAULT, IMAGENET1K_V1"),
        ("mine:net", "IMAGENET1K_V1", "weights: torchvision has none of mine:net; give a file of weights in `checkpoint`"),
    ):
        with pytest.raises(CalexError, match=re.escape(told)):
            published.entry(network, name)


@pytest.mark.parametrize(
    ("network", "name", "chosen", "expected"),
    [
        ("resnet50", "IMAGENET1K_V2", {}, (224, 232, "crop", "bilinear")),
        ("resnet50", "IMAGENET1K_V1", {}, (224, 256, "crop", "bilinear")),
        ("efficientnet_b0", "IMAGENET1K_V1", {}, (224, 256, "crop", "bicubic")),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", {}, (384, 384, "crop", "bicubic")),
        ("resnet50", "IMAGENET1K_V2", {"crop": 112}, (112, 116, "crop", "bilinear")),
        ("resnet50", "IMAGENET1K_V2", {"crop": 112, "resize": 128, "fit": "stretch"}, (112, 128, "stretch", "bilinear")),
        ("resnet50", None, {}, (16, 16, "stretch", "bilinear")),
        ("resnet50", None, {"resize": 20, "interpolation": "bicubic", "crop": None}, (16, 20, "stretch", "bicubic")),
    ],
)
def test_an_image_is_read_as_the_weights_were_trained_unless_the_config_says_otherwise(
    network: str, name: str | None, chosen: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = published.reading({"input_size": 16, **chosen}, published.entry(network, name))
    assert found == dict(zip(("size", "resize", "fit", "interpolation"), expected, strict=True))


def test_a_crop_is_no_larger_than_what_it_is_cut_from() -> None:
    with pytest.raises(
        CalexError, match=r"resize: images of 12 px have no crop of 16 px; raise it, or lower crop or input_size"
    ):
        published.reading({"input_size": 16, "resize": 12}, None)


@pytest.mark.parametrize("network", ["resnet18", "efficientnet_b0"])
@pytest.mark.parametrize(("height", "width"), [(80, 80), (300, 300), (70, 90), (301, 240)])
def test_images_are_given_as_torchvision_gives_them(network: str, height: int, width: int) -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (2, 3, 6, 7)).astype(np.float32)
    smooth = torch.nn.functional.interpolate(torch.from_numpy(coarse), (height, width), mode="bicubic").clamp(0, 255)
    pixels = smooth.round().to(torch.uint8)
    given = entry(network)
    expected = given.transforms()(pixels)
    transform = {**published.reading({"input_size": 1}, given), **published.normalisation(None, given)}
    found = to_input(pixels.permute(0, 2, 3, 1).numpy(), **transform, device=CPU)
    # Whole squares are given alike but for the rounding of pixels to 8 bits; of others the cut may lie half a pixel beside.
    limit = 0.01 if height == width else 0.5
    assert found.shape == expected.shape and (found - expected).abs().max() < limit


@pytest.mark.parametrize("resize", range(32, 42))
def test_the_middle_is_cut_where_torchvision_cuts_it(resize: int) -> None:
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, resize, resize), dtype=np.uint8))
    transform = {"size": 32, "resize": resize, "mean": [0.5] * 3, "std": [0.5] * 3}
    found = to_input(pixels.permute(0, 2, 3, 1).numpy(), **transform, device=CPU)
    expected = entry("resnet18").transforms(crop_size=32, resize_size=resize, mean=[0.5] * 3, std=[0.5] * 3)(pixels)
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(("network", "size"), [("resnet18", 64), ("googlenet", 64), ("densenet121", 32)])
def test_a_network_answers_as_torchvisions_own(cache: Path, network: str, size: int) -> None:
    """Also where torchvision renames tensors of an old file, normalises inside, leaves heads out or builds for one size."""
    weights = put(network, **({"init_weights": False} if network == "googlenet" else {}))
    if network == "densenet121":  # as the published file names them
        old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor for name, tensor in weights.items()}
        old = {name: tensor for name, tensor in old.items() if "num_batches" not in name}
        assert old.keys() != weights.keys()
        torch.save(old, published_file.path_of(entry(network)))
    given = entry(network)
    model = build(network, "imagenet", 1000, size).eval()
    assert len(published_file.load(model, network, given)) == 1  # its hash is another
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (2, 3, size, size), dtype=np.uint8))
    chosen = {"input_size": size, "crop": size, "resize": size}
    transform = {**published.reading(chosen, given), **published.normalisation(model, given)}
    with torch.no_grad():
        found = model(to_input(pixels.permute(0, 2, 3, 1).numpy(), **transform, device=CPU))
        theirs = models.get_model(network, weights=given).eval()
        preset = given.transforms
        expected = theirs(preset(crop_size=size, resize_size=size)(pixels))
    assert torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_position_embeddings_are_for_one_size(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("resnet18")
    held = {"encoder.pos_embedding": torch.ones(1, 50, 8)}
    monkeypatch.setattr(published_file, "_state", lambda *_: held)
    model = torch.nn.Module()
    model.encoder = torch.nn.Module()
    model.encoder.pos_embedding = torch.nn.Parameter(torch.ones(1, 5, 8))
    with pytest.raises(
        CalexError, match=r"pos_embedding of IMAGENET1K_V1 is \(1, 50, 8\), here \(1, 5, 8\); .* of 224 px: leave `crop` out"
    ):
        published_file.load(model, "resnet18", entry("resnet18"))


def test_a_file_that_is_not_there_is_named_with_its_place(cache: Path) -> None:
    with pytest.raises(CalexError) as caught:
        published_file.load(build("resnet18", "imagenet", 1000), "resnet18", entry("resnet18"))
    line = str(caught.value)
    assert "cannot be downloaded (URLError: <urlopen error no route to host>); " in line
    assert line.endswith(f"put the file resnet18-f37072fd.pth into {cache}") and "\n" not in line


def test_a_file_is_compared_with_the_hash_in_its_name(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("resnet18")
    path = published_file.path_of(entry("resnet18"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (warning,) = published_file.load(build("resnet18", "imagenet", 1000), "resnet18", entry("resnet18"))
    assert f"is not the published file: its sha256 begins with {digest[:8]}, not f37072fd" in warning
    renamed = path.rename(path.with_name(f"resnet18-{digest[:8]}.pth"))
    shutil.copy(renamed, path)  # which torchvision reads
    monkeypatch.setattr(published_file, "path_of", lambda entry: renamed)
    assert published_file.load(build("resnet18", "imagenet", 1000), "resnet18", entry("resnet18")) == []


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"<html><body>404</body></html>", "not a checkpoint but a web page"),
        (b"PK\x03\x04cut", "not a readable checkpoint"),
        ({"fc.weight": torch.ones(2)}, "does not fit resnet18 (RuntimeError"),
        ("nan", "conv1.weight holds values that are not finite"),
    ],
)
def test_a_file_that_is_something_else_is_one_line(cache: Path, content: Any, told: str) -> None:
    weights, path = put("resnet18"), published_file.path_of(entry("resnet18"))
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(
            content if isinstance(content, dict) else weights | {"conv1.weight": torch.full((64, 3, 7, 7), torch.nan)}, path
        )
    with pytest.raises(CalexError) as caught:
        published_file.load(build("resnet18", "imagenet", 1000), "resnet18", entry("resnet18"))
    assert str(path) in str(caught.value) and told in str(caught.value) and "\n" not in str(caught.value)


# The step.

SETTINGS = {
    "network": "resnet18", "stem": "imagenet", "input_size": 8, "augment": {"shift": 0, "flip": False}, "normalisation": None,
    "training": {}, "seed": 0, "trained_on": ["elsewhere"], "head_holdout": 0, "expected_accuracy": None, "last_layer": None,
    "weights": "IMAGENET1K_V1", "crop": 32, "resize": None, "fit": None, "interpolation": None, "head": "probe",
}  # fmt: skip


@pytest.fixture
def step(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    generator = np.random.default_rng(0)
    labels = np.arange(90) % 2
    pixels = (generator.integers(0, 150, (90, 20, 20, 3)) + 80 * labels[:, None, None, None]).astype(np.uint8)
    split = np.repeat(np.arange(3, dtype=np.uint8), 30)
    images.save(tmp_path / "images.npz", images.Images(pixels, labels.astype(np.int64), split, np.array(["a", "b"])))
    monkeypatch.chdir(tmp_path)

    def run(**changed: Any) -> SimpleNamespace:
        capsys.readouterr()
        settings = json.dumps(SETTINGS | changed)
        arguments = ["--settings", settings, "--out", "out/backbone.safetensors", "--device", "cpu", "--threads", "1"]
        return SimpleNamespace(
            code=main(["train-backbone", "--dataset", "images.npz", *arguments]), words=capsys.readouterr().err
        )

    return run


def test_published_weights_get_a_new_last_layer(step: Any) -> None:
    weights = put("resnet18")
    done = step()
    assert done.code == 0, done.words
    about, written = read_json("out/backbone.json"), load_file("out/backbone.safetensors")
    assert about["transform"] == {
        "size": 32, "resize": 37, "fit": "crop", "interpolation": "bilinear", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    assert about["trained_on"] == ["elsewhere", "fc: 30 train images"] and about["last_layer"]["features"] == 512
    assert all(name.startswith("fc.") or torch.equal(tensor, weights[name]) for name, tensor in written.items())
    (warning,) = about["warnings"]
    assert "is not the published file" in warning
    assert "enlarged" in step(crop=64).words


def test_published_weights_of_other_classes_need_a_probe(step: Any) -> None:
    put("resnet18")
    done = step(head=None)
    assert done.code == 2 and "they tell 1000 classes apart: set `head: probe` for a new last layer" in done.words
    assert done.words.count("error") == 1 and not Path("out/backbone.safetensors").exists()


@pytest.mark.parametrize(
    ("backbone", "told"),
    [
        ({"weights": "IMAGENET1K_V1"}, r"weights: with `stem: cifar`: the published weights are of the stem imagenet"),
        (
            {"weights": "X", "checkpoint": "w.pt", "stem": "imagenet"},
            r"weights: with `checkpoint: w\.pt`: .*remove one of the two",
        ),
        (
            {"weights": "X", "network": "own:net", "stem": "imagenet"},
            r"weights: with `network: own:net`: torchvision has none of it",
        ),
        (
            {"weights": "X", "checkpoint_key": "ema", "stem": "imagenet"},
            r"checkpoint_key: is of a checkpoint, and there is none",
        ),
        ({"fit": "cut"}, r"fit: unknown value 'cut'"),
        ({"crop": 0}, r"crop: 0 is less than the minimum of 1"),
    ],
)
def test_what_does_not_go_with_published_weights_is_refused(backbone: dict[str, Any], told: str) -> None:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    content["backbones"]["resnet18"] |= backbone
    schema = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    with pytest.raises(CalexError, match=rf"backbones\.resnet18\.{told}"):
        config.validated(content, schema, "c.yaml")


def test_what_weights_were_trained_on_is_elsewhere_unless_it_is_said() -> None:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    schema = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    one = content["backbones"]["resnet18"] | {"stem": "imagenet"}
    content["backbones"] |= {"published": {**one, "weights": "IMAGENET1K_V1"}, "said": {**one, "trained_on": ["val"]}}
    backbones = config.validated(content, schema, "c.yaml")["backbones"]
    assert {name: entry["trained_on"] for name, entry in backbones.items()} == {
        "resnet18": ["train"], "published": ["elsewhere"], "said": ["val"],
    }  # fmt: skip


def test_photos_and_published_weights_as_the_page_says(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's lines as they stand; a second file makes them quick."""
    (photos,) = blocks(section("README.md", "Your own photos"), "yaml")
    dataset_files.image_folder(tmp_path / "photos")
    put("resnet18")
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    branch = {"recipe": {"epochs": 1, "batch_size": 8}, "head": {"name": "prototype", "prototypes": 4}}
    brief = {
        "seeds": [0],
        "device": "cpu",
        "datasets": {"photos": {"source": {"val": 8}}},
        "backbones": {"resnet18_published": {"crop": 64, "taps": ["layer2"]}},
        "methods": {"calexnet": branch, "calex_best": branch | {"policies": ["global"]}},
        "policies": {"global": {"steps": 3}},
    }
    files = [write(tmp_path / "mine.yaml", photos), write(tmp_path / "brief.yaml", brief)]
    done = run_snakemake(tmp_path, "results/pareto_photos.html", "--cores", "2", config=files)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    about = read_json(tmp_path / "results/photos/resnet18_published/backbone.json")
    assert about["transform"]["size"] == 64 and about["transform"]["mean"] == [0.485, 0.456, 0.406]
    assert about["last_layer"]["name"] == "fc" and about["classes"] == 2
    points = pl.read_parquet(tmp_path / "results/points_photos.parquet")
    assert {"backbone", "calex_best"} <= set(points["method"])
    assert "is not the published file" in (tmp_path / "results/pareto_photos.html").read_text(encoding="utf-8")
    # Then a cascade that answers the same pictures, by the page's commands for digits.
    text = section("README.md", "Classify pictures").replace("digits/resnet18/", "photos/resnet18_published/")
    snakemake, predict = re.findall(r"^    (.+)$", text, re.MULTILINE)
    assert snakemake == "snakemake --cores all results/photos/resnet18_published/cascade"
    done = run_snakemake(tmp_path, *snakemake.replace("all", "2").split()[1:], config=files)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, *predict.split()[1:]]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert len(rows) == sum(path.is_file() for path in (tmp_path / "photos").rglob("*"))
    assert all({"cat", "dog"} & set(row.values()) for row in rows)
