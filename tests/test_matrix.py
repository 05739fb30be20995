"""What the shipped config compares on the paper's two datasets: really run on small files of their formats, planned in full."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import dataset_files
import exported
import numpy as np
import polars as pl
import pytest
import yaml
from conftest import REPOSITORY, planned, run_snakemake
from dataset_files import SUPERCLASSES

from calex import images, plugins
from calex.config import merged, read_yaml
from calex.simulation.points import MARKED
from calex.system.files import read_json

SHIPPED = merged([read_yaml(REPOSITORY / "config/config.yaml")])  # with `extends` resolved
# Those that are shipped for others to compare with are in no report yet; `test_recipes_rivals` trains them.
METHODS = SHIPPED["datasets"]["cifar10"]["methods"]
# What is run of each dataset: every method over the smaller network; over ResNet50's wide taps, ours and one of each other recipe.
RUN = {"cifar100_coarse": METHODS, "cinic10": ["calex_best", "calexnet", "calexnet_tuned", "pteenet", "ztw_published"]}
DATASETS = list(RUN)
REPORTS = [f"results/pareto_{dataset}.html" for dataset in DATASETS]


def brief() -> dict[str, Any]:
    """What makes the shipped config quick: few images, epochs and operating points. Heads, targets and weightings stay."""
    methods = {}
    for name, method in SHIPPED["methods"].items():
        wanted = {"epochs": 1, "batch_size": 32, "ensemble_epochs": 1, "warmup": 0, "period": 1}
        known = plugins.constants("recipes", method["recipe"]["name"])["OPTIONS"]
        # One variant each.
        one = {key: value[-1] for key, value in method["recipe"].items() if isinstance(value, list)}
        methods[name] = {"recipe": {key: value for key, value in wanted.items() if key in known} | one}
    # A backbone that knows one class only would leave CPM nothing to calibrate.
    training = {"epochs": 2, "batch_size": 20, "learning_rate": 0.01}
    small = {"training": training}
    return {
        "seeds": [0],
        "device": "cpu",
        "threads": {"train_backbone": 1, "cache_features": 1},
        "datasets": {
            "cifar100_coarse": {**small, "source": {"folder": "cifar", "val": 100}, "backbones": ["resnet18"]},
            "cinic10": {
                **small,
                "source": {"folder": "cinic", "per_class": 8},
                "backbones": ["resnet50"],
                "methods": RUN["cinic10"],
            },
        },
        "backbones": {
            "resnet18": {"stem": "imagenet", "taps": ["layer1", "layer2"], "pool": 4},
            "resnet50": {"stem": "imagenet", "taps": ["layer1"], "pool": 2},
        },
        "methods": methods,
        "policies": {
            name: {"steps": 4}
            for name, policy in SHIPPED["policies"].items()
            if "steps" in plugins.constants("policies", policy["name"])["OPTIONS"]
        },
    }


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on both datasets; nobody may change what is in it."""
    folder = tmp_path_factory.mktemp("matrix")
    dataset_files.cifar100(folder / "cifar", 400, 100)
    dataset_files.cinic(folder / "cinic", 8)
    shutil.copytree(REPOSITORY / "config", folder / "config")
    (folder / "brief.yaml").write_text(yaml.safe_dump(brief()))
    done = run_snakemake(folder, *REPORTS, "--cores", "2", config=Path("brief.yaml"))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


def test_every_method_has_points_of_every_policy(matrix: Path) -> None:
    for dataset in DATASETS:
        points = pl.read_parquet(matrix / f"results/points_{dataset}.parquet")
        assert points.schema == pl.Schema(MARKED) and points.null_count().sum_horizontal().item() == 0
        found = set(points.select("method", "policy", "split").unique().iter_rows())
        policies = {name: [*SHIPPED["methods"][name]["policies"], "oracle", "clairvoyant"] for name in RUN[dataset]}
        policies["backbone"] = ["none"]
        assert found == {(name, policy, split) for name in policies for policy in policies[name] for split in ("val", "test")}
        # Whatever the policy, its points differ and at some nobody leaves.
        swept = points.filter(~pl.col("policy").is_in(["none", "oracle", "clairvoyant"]) & (pl.col("split") == "test"))
        never = []
        for curve, rows in swept.group_by("method", "policy"):
            stays = rows["exit_share"].list.last()
            assert stays.max() == 1, (dataset, curve)
            never += [curve] * (stays.min() == 1)
        # A branch of one epoch may be right too seldom for any threshold of a strict policy.
        assert len(never) <= len(swept.select("method", "policy").unique()) // 10, (dataset, never)


def test_every_method_is_compared_image_by_image_with_each_of_ours(matrix: Path) -> None:
    for dataset in DATASETS:
        paired = pl.read_parquet(matrix / f"results/{dataset}/paired.parquet")
        assert set(paired["method"]) == set(RUN[dataset])
        ours = SHIPPED["datasets"][dataset]["ours"]
        first = {(name, SHIPPED["methods"][name]["policies"][0]) for name in ours}
        assert set(paired.select("ours_method", "ours_policy").iter_rows()) == first


def test_every_method_makes_a_cascade_that_answers_as_it_was_evaluated(matrix: Path) -> None:
    """Image by image, at the operating points at which the most exits are taken."""
    seen, differing, answered = set(), 0, 0
    for chosen, made, pixels, taken, classes, said in exported.curves(matrix / "results", "cifar100_coarse"):
        differing += exported.compare(made, pixels, taken, classes, said)
        answered += 3 * len(pixels)
        seen.add(chosen["method"])
    assert seen == set(METHODS) and differing <= 0.001 * answered


def test_the_page_and_what_lies_beside_it_name_every_method(matrix: Path) -> None:
    for dataset in DATASETS:
        for suffix in ("html", "md", "csv", "svg"):
            text = (matrix / f"results/pareto_{dataset}.{suffix}").read_text(encoding="utf-8")
            assert [name for name in RUN[dataset] if not re.search(rf"\b{name}\b", text)] == [], (dataset, suffix)
        assert (matrix / f"results/pareto_{dataset}.png").read_bytes().startswith(b"\x89PNG")


def test_the_superclasses_are_those_of_cifar100(matrix: Path) -> None:
    dataset = images.load(matrix / "results/cifar100_coarse/images.npz")
    assert dataset.names.tolist() == SUPERCLASSES and len(set(SUPERCLASSES)) == 20
    assert np.bincount(dataset.split).tolist() == [300, 100, 100]
    manifest = read_json(matrix / "results/cifar100_coarse/resnet18/features/train.json")
    assert manifest["layout"]["classes"] == 20
    # CINIC-10 comes split; its valid is what thresholds are chosen on.
    cinic = images.load(matrix / "results/cinic10/images.npz")
    assert np.bincount(cinic.split).tolist() == [80, 80, 80]


def test_the_shipped_matrix_runs_each_backbone_once(tmp_path: Path) -> None:
    """Both backbones, every method, three seeds: images decoded once, a forward pass for each backbone and split."""
    shutil.copytree(REPOSITORY / "config", tmp_path / "config")
    nothing = tmp_path / "nothing.yaml"
    nothing.write_text("seeds: [0, 1, 2]")
    done = run_snakemake(tmp_path, *REPORTS, "-n", "--printshellcmds", config=nothing)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "AmbiguousRule" not in done.stdout + done.stderr
    for dataset in DATASETS:
        entry = SHIPPED["datasets"][dataset]
        assert (entry["backbones"], sorted(entry["methods"])) == (["resnet18", "resnet50"], sorted(METHODS))
        for backbone in entry["backbones"]:
            for split in images.SPLITS:
                caching = f"--dataset results/{dataset}/images.npz --backbone results/{dataset}/{backbone}/backbone.safetensors"
                assert len(re.findall(rf"calex cache-features {caching} .* --split {split} ", done.stdout)) == 1
            for name in METHODS:
                folders = set(re.findall(rf"--out (results/{dataset}/{backbone}/{name}/\S+/seed\d+) ", done.stdout))
                assert {folder.rsplit("/seed")[1] for folder in folders} == {"0", "1", "2"}, (dataset, backbone, name)
    one_by_one = [name for name in METHODS if SHIPPED["methods"][name]["recipe"]["name"] == "branchwise"]
    cascades = 3 * 2 * 2  # seeds, backbones, datasets
    variants = sum(
        len(SHIPPED["methods"][name]["recipe"].get("cost_weight", [1])) for name in METHODS if name not in one_by_one
    )
    jobs = planned(done.stdout)
    assert {rule: jobs[rule] for rule in ("prepare_dataset", "train_backbone", "cache_features", "pareto", "compare", "report")} == {
        "prepare_dataset": 2, "train_backbone": 4, "cache_features": 12, "pareto": 2, "compare": 2, "report": 2,
    }  # fmt: skip
    assert (jobs["train_branch"], jobs["train_branches"]) == (3 * len(one_by_one) * cascades, variants * cascades)
