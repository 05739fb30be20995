"""Joint recipes as steps and jobs: the files they write, the images that leave, one job a cascade, what does not go together."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from conftest import REPOSITORY, copied_run, run_snakemake
from joint_cascades import FLOPS, IMAGES, build, everything, write_store
from safetensors.torch import load_file

from calex import config, recipes
from calex.__main__ import main
from calex.branches.branch import predict_log_proba
from calex.errors import CalexError
from calex.features.store import open_store
from calex.simulation import exits
from calex.simulation.cascade import leave
from calex.system.files import canonical_json

JOINT = ["pteenet", "ztw", "boostnet"]
BRIEF = {"ztw": {"epochs": 2, "ensemble_epochs": 1}}
SEED = 3


def settings(name: str, **changes: Any) -> str:
    block = {
        "recipe": {"name": name, **BRIEF.get(name, {"epochs": 2})},
        "head": {"name": name},
        "target": {"name": "labels"},
        "shared_core": True,
        "memory_mb": 100,
        "train_log_softmax": False,
    }
    return canonical_json(block | changes)


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("features")
    write_store(folder, "train", views=2)
    write_store(folder, "val", images=20, seed=1)
    write_store(folder, "test", images=21, seed=2)
    return folder


def step(verb: str, features: Path, out: Path, block: str, *arguments: str) -> int:
    """In this process, because to import torch takes longer than to train these."""
    common = ["--features", str(features), "--seed", str(SEED), "--settings", block, "--out", str(out), "--device", "cpu"]
    return main([verb, *common, *arguments])


@pytest.fixture(scope="module", params=JOINT)
def cascade(request, features, tmp_path_factory) -> tuple[str, Path]:
    """A recipe's name and the folder of a cascade that it trained."""
    folder = tmp_path_factory.mktemp(request.param)
    assert step("train-branches", features, folder, settings(request.param)) == 0
    return request.param, folder


def test_a_step_writes_every_branch_and_its_exits_and_nothing_else(cascade) -> None:
    _, folder = cascade
    expected = {f"{name}{k}.{suffix}" for k in (1, 2, 3) for name, suffix in (("branch", "safetensors"), ("exits", "npz"))}
    assert {path.name for path in folder.iterdir()} == expected


def test_a_warmup_that_leaves_nothing_is_refused_by_the_step(features, tmp_path, capsys) -> None:
    block = settings("pteenet", recipe={"name": "pteenet", "epochs": 2, "warmup": 2})
    assert step("train-branches", features, tmp_path / "out", block) == 2
    assert "warmup: 2 of epochs: 2 leaves none" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_whoever_may_read_the_folder_may_read_what_is_in_it(cascade) -> None:
    """A group's members share results; libraries that write by way of a temporary file let nobody else read them."""
    _, folder = cascade
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in folder.iterdir()}
    assert modes == dict.fromkeys(modes, oct(0o666 & ~umask))


def test_exits_hold_what_the_written_branches_say(cascade, features) -> None:
    name, folder = cascade
    rebuilt = build(name)
    for k, branch in enumerate(rebuilt.branches, 1):
        branch.load_state_dict(load_file(folder / f"branch{k}.safetensors"))
    store = open_store(features, "test")
    for k, (log_probabilities, confidence) in enumerate(predict_log_proba(rebuilt, everything(store).taps), 1):
        with np.load(folder / f"exits{k}.npz") as held:
            assert held["train_prediction"].shape == (2, IMAGES) and held["test_prediction"].shape == (1, 21)
            np.testing.assert_array_equal(held["test_prediction"][0], log_probabilities.argmax(1))
            np.testing.assert_allclose(held["test_top"][0], np.sort(log_probabilities)[:, :-3:-1], rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(held["test_log_softmax"][0], log_probabilities, rtol=1e-3, atol=1e-3)
            assert held["test_log_softmax"].dtype == np.float16 and "train_log_softmax" not in held
            assert ("test_backbone_log_softmax" in held) == (k == 1)
            np.testing.assert_array_equal(held["test_label"], store.labels)
            np.testing.assert_array_equal(held["test_backbone"], store.log_softmax.argmax(2))
            assert held["flops_to_tap"] == FLOPS["flops_to_tap"][k - 1] and held["flops_backbone"] == FLOPS["flops"]
            alone, with_confidence = rebuilt.branches[k - 1].flops()
            assert held["flops_head"] == alone
            if confidence is None:
                assert not any("confidence" in key for key in held)
            else:
                assert held["flops_confidence_head"] == with_confidence
                np.testing.assert_allclose(held["test_confidence"][0], confidence, rtol=1e-4)


def test_an_image_leaves_at_the_first_exit_whose_score_reaches_the_threshold(cascade) -> None:
    name, folder = cascade
    score = "confidence" if name == "pteenet" else "max_softmax"
    read = exits.read([folder / f"exits{k}.npz" for k in (1, 2, 3)], "val", score)
    for share in (0.0, 0.3, 0.6, 1.0):
        thresholds = np.broadcast_to(np.quantile(read.scores, share, axis=1)[:, None], (3, read.classes))
        found = leave(read, thresholds[None].astype(float))[0]
        for i in range(read.scores.shape[1]):
            ready = [k for k in range(3) if read.scores[k, i] >= thresholds[k, read.predictions[k, i]]]
            assert found[i] == (ready[0] if ready else 3)


def test_the_same_seed_gives_the_same_bytes(cascade, features, tmp_path) -> None:
    name, folder = cascade
    assert step("train-branches", features, tmp_path, settings(name)) == 0
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }


def test_branches_begin_as_they_do_alone() -> None:
    """So that methods differ by what they learn, not by where they begin."""
    for name in JOINT:
        one, other = build(name, "prototype", seed=SEED), build("boostnet", "prototype", seed=SEED)
        for mine, yours in zip(one.branches, other.branches, strict=True):
            assert torch.equal(mine.core.prototypes.weight, yours.core.prototypes.weight)


@pytest.mark.parametrize(
    ("verb", "changes", "said"),
    [
        ("train-branch", {}, "the recipe 'ztw' trains branches all at once; use train-branches"),
        ("train-branches", {"recipe": {"name": "branchwise"}}, "the recipe 'branchwise' trains branches one by one; use"),
        (
            "train-branches",
            {"recipe": {"name": "pteenet"}, "target": {"name": "kl"}},
            "--settings: target.name: the recipe 'pteenet' learns no target 'kl'",
        ),
        ("train-branches", {"recipe": {"name": "ztw", "milestome": 3}}, "did you mean 'milestone'"),
        (
            "train-branches",
            {"recipe": {"name": "boostnet", "batch_size": 1}},
            "recipe.batch_size: 1 is less than 2",
        ),
        (
            "train-branches",
            {"recipe": {"name": "boostnet", "learning_rate": 1e30}},
            "lower recipe.learning_rate",
        ),
    ],
)
def test_what_a_step_cannot_do_is_one_line(features, tmp_path, capsys, verb, changes, said) -> None:
    extra = ["--branch", "1"] if verb == "train-branch" else []
    assert step(verb, features, tmp_path, settings("ztw", **changes), *extra) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and said in lines[0]
    assert list(tmp_path.iterdir()) == []


# In a config.


def with_methods(**methods: dict[str, Any]) -> dict[str, Any]:
    """The tiny config with these methods alone, each laid over a joint one."""
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    common = {"weighting": {"name": "uniform"}, "policies": ["cpm_full"], "score": "max_softmax", "target": {"name": "labels"}}
    content["methods"] = {
        name: common | {"recipe": {"name": name, **BRIEF.get(name, {"epochs": 2})}, "head": {"name": name}} | changes
        for name, changes in methods.items()
    }
    content["datasets"]["digits"]["methods"] = list(methods)
    return content


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("ztw", {"score": "confidence"}, "methods.ztw.score: the recipe 'ztw' gives no score 'confidence', known: entropy"),
        (
            "pteenet",
            {"target": {"name": "kl"}},
            "methods.pteenet.target.name: the recipe 'pteenet' learns no target 'kl', known: argmax, labels",
        ),
        (
            "boostnet",
            {"weighting": {"name": "survivors"}},
            "methods.boostnet.weighting.name: 'survivors' looks at earlier branches, but the recipe 'boostnet' trains all at",
        ),
    ],
)
def test_what_a_recipe_cannot_do_is_one_line_before_any_job(name, changes, said) -> None:
    schema = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    with pytest.raises(CalexError) as caught:
        config.validated(with_methods(**{name: changes}), schema, "mine.yaml")
    assert str(caught.value).startswith(f"mine.yaml: {said}") and "\n" not in str(caught.value)


def test_recipes_say_of_themselves_what_they_are() -> None:
    assert [name for name in ("branchwise", *JOINT) if recipes.joint(name)] == JOINT


def planned(folder: Path, content: dict[str, Any], target: str = "results/pareto_digits.html") -> dict[str, int]:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    done = run_snakemake(folder, target, "-n", config=folder / "config.yaml")
    assert done.returncode == 0, done.stderr
    stats = re.search(r"Job stats:\njob +count\n-[- ]*\n(.*?)\ntotal", done.stdout, re.DOTALL)
    assert stats is not None
    return {line.split()[0]: int(line.split()[1]) for line in stats[1].splitlines()}


def test_a_joint_method_is_one_job_a_cascade(tmp_path) -> None:
    jobs = planned(tmp_path, with_methods(pteenet={}, ztw={}) | {"seeds": [0, 1]})
    assert jobs["train_branches"] == 4 and "train_branch" not in jobs and "weigh_survivors" not in jobs


def test_backbones_may_differ_in_their_number_of_branches(tmp_path) -> None:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    content["methods"] |= with_methods(ztw={})["methods"]
    content["backbones"]["short"] = content["backbones"]["resnet18"] | {"taps": ["layer1", "layer3"]}
    content["datasets"]["digits"] |= {"backbones": ["resnet18", "short"], "methods": ["calexnet", "ztw"]}
    jobs = planned(tmp_path, content)
    assert {name: count for name, count in jobs.items() if name.startswith("train_branch")} == {
        "train_branch": 5, "train_branches_2": 1, "train_branches_3": 1,
    }  # fmt: skip


def test_a_joint_method_beside_finished_ones_trains_once_and_disturbs_nothing(tiny, tmp_path) -> None:
    folder = copied_run(tiny, tmp_path / "run")
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    content["methods"] |= with_methods(ztw={})["methods"]
    cascade = "results/digits/resnet18/ztw/default/seed0"
    points = f"{cascade}/cpm_full.points.parquet"
    assert planned(folder, content, points) == {"train_branches": 1, "calibrate": 1, "evaluate": 1}
    done = run_snakemake(folder, points, "--cores", "2", config=folder / "config.yaml")
    assert done.returncode == 0, done.stderr[-4000:]
    assert {path.name for path in (folder / cascade).iterdir()} == {
        *(f"{name}" for k in (1, 2, 3) for name in (f"branch{k}.safetensors", f"exits{k}.npz")),
        *(
            f"cpm_full.{name}"
            for name in ("thresholds.parquet", "calibration.json", "learnt.npz", "points.parquet", "exits.npz")
        ),
    }
