"""What the docs tell a user to write, written and run: own images, network and checkpoint; an own head, recipe and policy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import dataset_files
import numpy as np
import polars as pl
import torch
import yaml
from conftest import REPOSITORY, copied_run, planned, run_snakemake

from calex import images
from calex.system.files import read_json

TINY = REPOSITORY / "tests/tiny.yaml"


def section(file: str, title: str) -> str:
    """The text below a heading, up to the next of its rank."""
    return (REPOSITORY / file).read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a text that are in a language, without the indent of the list that they stand in."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
    return path


def test_images_a_network_and_a_checkpoint_of_ones_own(tmp_path: Path) -> None:
    """The page's blocks as they stand; a second file makes them quick."""
    text = section("config/extending.md", "Your own data and network")
    (network,), (photos, backbone) = blocks(text, "python"), blocks(text, "yaml")
    dataset_files.image_folder(tmp_path / "photos")
    write(tmp_path / "my_network.py", network)
    command = [sys.executable, "-m", "calex", "taps", "my_network:build", "--input-size", "64"]
    proposed = subprocess.run(
        command, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert re.search(r"^ *(taps: .*)$", proposed.stdout, re.MULTILINE)[1] in backbone, proposed.stdout + proposed.stderr
    scope: dict[str, Any] = {}
    exec(network, scope)
    torch.manual_seed(0)
    weights = scope["build"](2).state_dict()
    torch.save(weights, tmp_path / "my_network.pt")
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    mine = write(tmp_path / "mine.yaml", photos.replace("backbones: [resnet18]", "backbones: [mine]") + backbone)
    assert "[mine]" in mine.read_text()
    branch = {"recipe": {"epochs": 1, "batch_size": 8}, "head": {"name": "prototype", "prototypes": 4}}
    brief = {
        "seeds": [0], "device": "cpu", "datasets": {"photos": {"source": {"val": 8}}}, "methods": {"calexnet": branch, "reference": branch},
        "policies": {"cpm_survivors": {"steps": 3}, "cpm_full": {"steps": 3}},
    }  # fmt: skip
    done = run_snakemake(
        tmp_path, "results/pareto_photos.html", "--cores", "2", config=[mine, write(tmp_path / "brief.yaml", brief)]
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert {"calexnet", "reference"} <= set(re.findall(r"\w+", (tmp_path / "results/pareto_photos.html").read_text()))
    dataset = images.load(tmp_path / "results/photos/images.npz")
    assert dataset.images.shape == (48, 64, 64, 3) and dataset.names.tolist() == ["cat", "dog"]
    assert np.bincount(dataset.split).tolist() == [16, 8, 24]
    about = read_json(tmp_path / "results/photos/mine/backbone.json")
    assert (about["network"], about["history"], about["trained_on"]) == ("my_network:build", [], ["train"])
    said = {"size": 64, **yaml.safe_load(backbone)["backbones"]["mine"]["normalisation"]}
    assert about["transform"] == said | {"resize": 64, "fit": "stretch", "interpolation": "bilinear"}
    assert about["parameters"] == sum(tensor.numel() for name, tensor in weights.items() if re.search("weight|bias", name))
    taps = read_json(tmp_path / "results/photos/mine/taps.json")["taps"]
    assert [(tap["name"], tap["shape"]) for tap in taps] == [
        ("stage1", [16, 8, 8]),
        ("stage2", [32, 8, 8]),
        ("stage3", [64, 8, 8]),
    ]
    points = pl.read_parquet(tmp_path / "results/points_photos.parquet")
    assert set(points["method"]) == {"backbone", "calexnet", "reference"} and set(points["backbone"]) == {"mine"}


def test_a_head_a_recipe_and_a_policy_are_a_file_and_a_line_each(tiny: Path, tmp_path: Path) -> None:
    text = section("config/extending.md", "A method of your own")
    files, (lines,) = re.findall(r"^`(my_parts/\w+\.py)`", text, re.MULTILINE), blocks(text, "yaml")
    assert len(files) == 3
    own = copied_run(tiny, tmp_path / "own")
    for file, code in zip(files, blocks(text, "python"), strict=True):
        write(own / file, code)
    mine = write(own / "mine.yaml", lines)
    brief = {"methods": {"supervised": {"recipe": {"epochs": 2}}}, "policies": {"equal_shares": {"steps": 5}}}
    report, config = "results/pareto_digits.html", [TINY, mine, write(tmp_path / "brief.yaml", brief)]

    # What was finished stays: only the new method's jobs run, and those that put all side by side.
    expected = {"train_branches": 1, "calibrate": 1, "evaluate": 2, "pareto": 1, "compare": 1, "report": 1}
    assert planned(run_snakemake(own, report, "-n", config=config).stdout) == expected
    before = pl.read_parquet(own / "results/points_digits.parquet")
    done = run_snakemake(own, report, "--cores", "2", config=config)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    points = pl.read_parquet(own / "results/points_digits.parquet")
    new = points.filter(pl.col("method") == "supervised")
    assert points.filter(pl.col("method") != "supervised").drop("on_front").equals(before.drop("on_front"))
    assert set(new["policy"]) == {"equal_shares", "oracle", "clairvoyant"} and set(new["split"]) == {"val", "test"}
    swept = new.filter((pl.col("policy") == "equal_shares") & (pl.col("split") == "val")).sort("point")
    shares = [yaml.safe_load(parameters)["share"] for parameters in swept["parameters"]]
    assert shares == [1 - step / 5 for step in range(6)]
    # Of 397 images branch 1 lets such a share go; nothing else of the report has changed its place.
    for share, gone in zip(shares, swept["exit_share"].list.first(), strict=True):
        assert abs(gone - share) < 0.1
    assert swept["exit_share"].list.last().to_list()[0] == 0 and swept["exit_share"].list.last().to_list()[-1] == 1
    assert "supervised" in (own / report).read_text(encoding="utf-8")


# A plugin of each kind, by the key of the config that names it; each leans on one of the package.
PARTS = {
    "source": """
from calex.datasets import digits
OPTIONS = {"val": 300, "test": 300}
def load(resources, val, test):
    return digits.load(resources, val, test, split_seed=0)
""",
    "head": """
from my_parts.shared import module
OPTIONS = {"filters": 4}
RANGES = {"filters": "[1, inf)"}
def build(channels, height, width, filters):
    return module(channels, filters)
""",
    "target": """
from calex.targets import labels as of_labels
def losses(logits, log_softmax, labels):
    return of_labels.losses(logits, log_softmax, labels)
""",
    "weighting": """
import numpy as np
SEQUENTIAL = True
OPTIONS = {"floor": 0.1}
RANGES = {"floor": "(0, 1]"}
def survival(validation, train, correct, **_):
    return 1.0 - train.scores[-1] * 0.5
def weights(u, floor):
    kept = np.maximum(u, floor)
    return kept / kept.mean()
""",
    "recipe": """
from dataclasses import replace
from calex.recipes import branchwise
OPTIONS = {"batch_size": 128}
def train(branch, job):
    return branchwise.train(branch, replace(job, settings=branchwise.OPTIONS | job.settings | {"epochs": 1}))
""",
    "policy": """
import numpy as np
OPTIONS = {"steps": 3}
RANGES = {"steps": "[1, inf)"}
def parameters(steps):
    return {"cut": np.arange(steps + 1) / steps}
def thresholds(exits, parameters, correct, steps):
    return np.stack([np.full((len(exits.scores), exits.classes), cut) for cut in parameters["cut"]])
""",
}
NETWORK = """
from torch import nn
def build(classes):
    net = nn.Sequential()
    for number, (given, made) in enumerate([(3, 4), (4, 8), (8, 8)], 1):
        block = [nn.Conv2d(given, made, 3, stride=2 if number > 1 else 1, padding=1), nn.BatchNorm2d(made), nn.ReLU()]
        net.add_module(f"stage{number}", nn.Sequential(*block))
    net.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    net.add_module("classifier", nn.Linear(8, classes))
    return net
"""
SHARED = """
from torch import nn
def module(channels, filters):
    core = nn.Sequential(nn.Conv2d(channels, filters, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    core.width = filters
    return core
"""

# What runs again after an edit of each. A dataset's images are the same ones after the edit, but nobody can know that
# before they are decoded.
LAST = {"pareto": 1, "compare": 1, "report": 1}
CASCADE = {"train_branch": 3, "weigh_survivors": 2, "calibrate": 1, "evaluate": 2, **LAST}
BACKBONE = {"measure_taps": 1, "train_backbone": 1, "cache_features": 3, **CASCADE}
RERUN = {
    "source": {"prepare_dataset": 1, **BACKBONE},
    "network": BACKBONE,
    "head": CASCADE,
    "shared": CASCADE,
    "target": CASCADE,
    "recipe": CASCADE,
    "weighting": {**CASCADE, "train_branch": 2},
    "policy": {"calibrate": 1, "evaluate": 1, **LAST},
}


def test_a_plugin_of_each_kind_from_a_users_folder_and_what_an_edit_reruns(tmp_path: Path) -> None:
    """The real workflow with every kind outside the package; then each file is edited, and the dry run lists its jobs."""
    report, parts = "results/pareto_digits.html", tmp_path / "my_parts"
    for kind, code in {**PARTS, "shared": SHARED, "network": NETWORK}.items():
        write(parts / f"{kind}.py", code)
    content = yaml.safe_load(TINY.read_text())
    content["datasets"]["digits"] |= {"source": {"name": "my_parts.source", "val": 350}, "methods": ["mine"], "views": 1}
    content["methods"] = {
        "mine": {key: {"name": f"my_parts.{key}"} for key in ("head", "target", "weighting", "recipe")}
        | {"score": "max_softmax", "policies": ["shares"]}
    }
    content["backbones"] = {"own": {"network": "my_parts.network:build", "taps": ["stage1", "stage2", "stage3"], "pool": 2}}
    content["datasets"]["digits"]["backbones"] = ["own"]
    content["policies"] = {"shares": {"name": "my_parts.policy"}}
    config = write(tmp_path / "mine.yaml", content)
    done = run_snakemake(tmp_path, report, "--cores", "2", config=config)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    points = pl.read_parquet(tmp_path / "results/points_digits.parquet")
    mine = points.filter((pl.col("policy") == "shares") & (pl.col("split") == "val"))
    assert mine["n"].unique().to_list() == [350] and len(mine) == 4
    assert planned(run_snakemake(tmp_path, report, "-n", config=config).stdout) == {}
    for kind, jobs in RERUN.items():
        file = parts / f"{kind}.py"
        before = file.read_text()
        file.write_text(before + "# edited\n")
        assert planned(run_snakemake(tmp_path, report, "-n", config=config).stdout) == jobs, kind
        file.write_text(before)
    assert planned(run_snakemake(tmp_path, report, "-n", config=config).stdout) == {}
    # A file that takes no part is of no account; nor is one that is new.
    write(parts / "other.py", "from my_parts import head\n")
    assert planned(run_snakemake(tmp_path, report, "-n", config=config).stdout) == {}
