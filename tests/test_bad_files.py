"""Damaged files and incomplete settings, by hand: one line that names the file or key, exit code 2, nothing written."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import REPOSITORY, run_calex
from feature_stores import SMALL, dump
from made_up_exits import random_exits, write

from calex.__main__ import COMMANDS
from calex.errors import CalexError
from calex.simulation import exits as exits_of
from calex.steps import _description, calibrate, evaluate, report, weigh_survivors
from calex.system.files import read_json, read_npy, read_npz, read_parquet, remedy, write_npz
from calex.system.replacing import replacing
from calex.workflow.settings_argument import parse

SETTINGS = json.dumps({"policy": {"name": "cpm", "steps": 3}, "score": "confidence", "correct": "label", "folds": 3})
KEY = json.dumps({"dataset": "d", "backbone": "b", "method": "m", "variant": "default", "policy": "cpm", "seed": 0})
EVALUATION = json.dumps({"policy": {"name": "cpm", "steps": 3}, "score": "confidence", "correct": "label"})


def refused(said: str, *arguments: str | Path) -> None:
    done = run_calex(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr


@pytest.fixture
def exits(tmp_path: Path) -> list[Path]:
    return write(tmp_path, {"val": [random_exits(0)], "test": [random_exits(1)]})


def test_truncated_exits(exits: list[Path], tmp_path: Path) -> None:
    exits[1].write_bytes(exits[1].read_bytes()[:500])
    refused("exits2.npz: damaged", "calibrate", "--exits", *exits, "--settings", SETTINGS, "--out", tmp_path / "t.parquet")
    assert not (tmp_path / "t.parquet").exists()


def test_truncated_thresholds(exits: list[Path], tmp_path: Path) -> None:
    thresholds, points = tmp_path / "t.parquet", tmp_path / "p.points.parquet"
    assert run_calex("calibrate", "--exits", *exits, "--settings", SETTINGS, "--out", thresholds).returncode == 0
    thresholds.write_bytes(thresholds.read_bytes()[:300])
    arguments = ("evaluate", "--exits", *exits, "--thresholds", thresholds, "--settings", EVALUATION, "--key", KEY)
    refused("t.parquet: damaged", *arguments, "--out", points)
    assert not points.exists()


def test_exits_of_other_images(exits: list[Path], tmp_path: Path) -> None:
    with np.load(exits[1]) as archive:
        arrays = dict(archive)
    arrays["val_label"] = arrays["val_label"][::-1].copy()
    np.savez(exits[1], **arrays)
    refused("made from other images", "calibrate", "--exits", *exits, "--settings", SETTINGS, "--out", tmp_path / "t.parquet")


def test_a_missing_key_and_a_misspelt_option(exits: list[Path], tmp_path: Path) -> None:
    out = ("--out", tmp_path / "t.parquet")
    refused("the key 'score' is missing", "calibrate", "--exits", *exits, "--settings", '{"policy":{"name":"cpm"}}', *out)
    wrong = SETTINGS.replace('"steps"', '"stepz"')
    refused("unknown key 'stepz', did you mean 'steps'?", "calibrate", "--exits", *exits, "--settings", wrong, *out)


@pytest.mark.parametrize("verb", ["prepare-dataset", "calibrate", "train-branch"])
def test_a_disk_that_is_full_is_one_line(verb: str, exits: list[Path], tmp_path: Path) -> None:
    """For each library that writes files (NumPy, Polars, safetensors), with a real limit on what may be written."""
    for split in ("train", "val", "test"):
        dump(tmp_path, SMALL, split=split, flops=10.0, flops_to_tap=[1.0, 2.0])
    recipe = '{"recipe":{"name":"branchwise","epochs":1,"batch_size":8},"head":{"name":"prototype"},"target":{"name":"kl"},'
    recipe += '"shared_core":false,"confidence":true,"correct":"label","memory_mb":64,"train_log_softmax":false}'
    file, *arguments = {
        "prepare-dataset": ("images.npz", "--source", '{"name":"digits"}', "--resources", tmp_path),
        "calibrate": ("t.parquet", "--exits", *exits, "--settings", SETTINGS),
        "train-branch": ("", "--features", tmp_path, "--branch", 1, "--seed", 0, "--settings", recipe, "--device", "cpu"),
    }[verb]
    out = tmp_path / "out" / file
    command = shlex.join([sys.executable, "-m", "calex", verb, *map(str, arguments), "--out", str(out)])
    done = subprocess.run(["bash", "-c", f"ulimit -f 1; {command}"], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("images", "digits", "train-branch"))]
    (line,) = errors
    name = file or "branch1.safetensors"
    assert line.startswith(f"calex {verb}: error: ") and line.endswith(
        f"{name}: cannot be written (File too large); make room and rerun"
    )
    assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_damaged_dataset(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    source = ("--source", '{"name":"digits"}', "--resources", tmp_path)
    assert run_calex("prepare-dataset", *source, "--out", path).returncode == 0
    content = bytearray(path.read_bytes())
    content[5000] ^= 1  # one bit of a pixel
    path.write_bytes(content)
    block = '{"network":"resnet18","stem":"cifar","input_size":8}'
    out = tmp_path / "backbone.safetensors"
    refused("images.npz: ", "train-backbone", "--dataset", path, "--settings", block, "--out", out)
    assert not out.exists()


def one_line(said: str, call: Callable[..., object], *arguments: object, **named: object) -> None:
    with pytest.raises(CalexError) as caught:
        call(*arguments, **named)
    assert said in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY\x01\x00", b"plain words", b"\x80\x04K\x01."])
def test_whatever_is_no_array_is_damaged(content: bytes, tmp_path: Path) -> None:
    for path, reader in ((tmp_path / "a.npz", read_npz), (tmp_path / "a.npy", read_npy)):
        path.write_bytes(content)
        one_line(f"{path.name}: damaged (", reader, path)


def test_an_array_is_no_archive_and_an_archive_no_array(tmp_path: Path) -> None:
    for name, save in (("a.npz", np.save), ("a.npy", np.savez)):
        with open(tmp_path / name, "wb") as handle:
            save(handle, np.arange(3))
    one_line("a.npz: a single array", read_npz, tmp_path / "a.npz")
    one_line("a.npy: an archive", read_npy, tmp_path / "a.npy")


def test_flipped_bytes_never_get_past_the_readers_as_anything_but_a_line(tmp_path: Path) -> None:
    """Wherever a byte is changed or the file ends, there is an answer or one line, nothing else."""
    draw = np.random.default_rng(0)
    write_npz(tmp_path / "whole.npz", {"a": np.arange(50), "b": np.array("word")})
    pl.DataFrame({"a": range(50), "b": ["word"] * 50}).write_parquet(tmp_path / "whole.parquet")
    schema = {"a": pl.Int64, "b": pl.String}
    readers: list[tuple[str, Callable[[Path], object]]] = [
        ("npz", read_npz),
        ("npz", lambda path: read_npz(path, ["a", "b"], mapped=["a"])),
        ("parquet", lambda path: read_parquet(path, schema)),
    ]
    for name, read in readers:
        whole = (tmp_path / f"whole.{name}").read_bytes()
        read(tmp_path / f"whole.{name}")
        path = tmp_path / f"damaged.{name}"
        refused_ones = 0
        for place in range(0, len(whole), 7):
            for content in (
                whole[:place],
                whole[:place] + bytes([whole[place] ^ int(draw.integers(1, 256))]) + whole[place + 1 :],
            ):
                path.write_bytes(content)
                try:
                    read(path)
                except CalexError as error:
                    assert path.name in str(error) and "\n" not in str(error)
                    refused_ones += 1
        assert refused_ones > len(whole) // 7


def test_tables_of_other_columns(tmp_path: Path) -> None:
    schema = {"a": pl.Int64}
    for frame, said in (
        (pl.DataFrame({"b": [1]}), "t.parquet: has no column 'a'"),
        (pl.DataFrame({"a": [1.5]}), "t.parquet: column 'a' is Float64, not Int64"),
        (pl.DataFrame({"a": [1, None]}), "t.parquet: column 'a' has gaps"),
    ):
        frame.write_parquet(tmp_path / "t.parquet")
        one_line(said, read_parquet, tmp_path / "t.parquet", schema)
    with pytest.raises(FileNotFoundError):
        read_parquet(tmp_path / "none.parquet", schema)


@pytest.mark.parametrize("content", ["{}", "[]", "3", "null", '{"layout": 3}', '{"layout": {"imagez": 1}}'])
def test_json_without_what_it_should_hold(content: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(content)
    assert read_json(tmp_path / "m.json") == json.loads(content)
    one_line("m.json: holds no 'layout.images'", read_json, tmp_path / "m.json", "layout.images")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("val_prediction", np.zeros((1, 400)), "'val_prediction' is float64"),
        ("val_prediction", np.zeros(400, np.int64), "'val_prediction' is int64 (400,)"),
        ("val_prediction", np.full((1, 400), 5), "'val_prediction' names a class outside 0..4"),
        ("val_label", np.zeros(399, np.int64), "'val_label' is int64 (399,), not integers (400,)"),
        ("val_label", np.full(400, -1), "'val_label' names a class outside 0..4"),
        ("val_backbone", np.zeros((2, 400), np.int64), "'val_backbone' is int64 (2, 400)"),
        ("val_confidence", np.full((1, 400), np.nan, np.float32), "'val_confidence' has values that are not in [0, 1]"),
        ("val_confidence", np.zeros((1, 3), np.float32), "'val_confidence' is float32 (1, 3)"),
        ("classes", np.zeros(3), "'classes' must be one number"),
        ("flops_to_tap", np.array(np.inf), "'flops_to_tap' must be one number"),
        ("flops_confidence_head", np.array("many"), "'flops_confidence_head' must be one number"),
    ],
)
def test_exits_of_the_wrong_kind(exits: list[Path], name: str, value: np.ndarray, said: str) -> None:
    write_npz(exits[0], read_npz(exits[0]) | {name: value})
    one_line(f"exits1.npz: {said}", exits_of.read, exits, "val", "confidence")


def test_settings_that_no_array_can_tell(exits: list[Path], tmp_path: Path) -> None:
    def calibrated(**other: object) -> None:
        settings = parse(json.dumps(json.loads(SETTINGS) | other))
        calibrate.run(argparse.Namespace(exits=exits, settings=settings, out=tmp_path / "t.parquet"))

    one_line("score: unknown name 'marginn', did you mean 'margin'?", calibrated, score="marginn")
    one_line("correct: unknown value 'labels'", calibrated, correct="labels")
    one_line("policy: a block with a name is expected, got 'cpm'", calibrated, policy="cpm")
    one_line("unknown name '3', known: ", calibrated, policy={"name": 3})
    for folds in (401, 1, "5", 2.5):
        one_line(f"evaluation.folds: {folds!r} folds of 400 validation images", calibrated, folds=folds)
    assert not (tmp_path / "t.parquet").exists()


def test_thresholds_that_are_none(exits: list[Path], tmp_path: Path) -> None:
    thresholds, points = tmp_path / "t.parquet", tmp_path / "p.points.parquet"
    calibrate.run(argparse.Namespace(exits=exits, settings=parse(SETTINGS), out=thresholds))
    whole = pl.read_parquet(thresholds)
    asked = {"exits": exits, "thresholds": thresholds, "settings": parse(EVALUATION), "key": parse(KEY), "out": points}
    for frame, said in (
        (whole.with_columns(fold=pl.col("fold") + 1), "its thresholds are not those of 3 branches and 5 classes"),
        (whole.with_columns(threshold=pl.lit(math.nan)), "a threshold is not a number"),
        (whole.drop("fold"), "has no column 'fold'"),
    ):
        frame.write_parquet(thresholds)
        one_line(f"t.parquet: {said}", evaluate.run, argparse.Namespace(**asked))
    # The exits would have been written over the points.
    one_line("--out:", evaluate.run, argparse.Namespace(**asked | {"out": tmp_path / "p.parquet"}))
    one_line("--key: 'seed' is 'x'", evaluate.run, argparse.Namespace(**asked | {"key": parse(KEY.replace("0}", '"x"}'))}))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("exits1.npz", "exits2.npz", "exits3.npz", "t.calibration.json", "t.learnt.npz", "t.parquet")
    ]


def test_sharpness_may_be_infinite_all_the_way(tmp_path: Path) -> None:
    """β = ∞ weighs all alike, through the JSON of a command line."""
    paths = write(tmp_path, {"val": [random_exits(0)], "train": [random_exits(1), random_exits(2)]})
    for sharpness, alike in (("inf", True), (0.1, False)):
        block = json.dumps(
            {"weighting": {"name": "survivors", "sharpness": sharpness}, "score": "confidence", "correct": "label"}
        )
        weigh_survivors.run(argparse.Namespace(exits=paths, settings=parse(block), out=tmp_path / "w.npy"))
        weights = read_npy(tmp_path / "w.npy")
        assert weights.shape == (2, 400) and bool((weights == 1).all()) is alike


@pytest.mark.parametrize("file", ["backbone.json", "taps.json", "features/val.json"])
def test_a_description_from_empty_files(tiny: Path, tmp_path: Path, file: str) -> None:
    for path in ("backbone.json", "taps.json", *(f"features/{split}.json" for split in ("train", "val", "test"))):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(tiny / "results/digits/resnet18" / path, tmp_path / path)
    chosen = {"name": "digits", "config": {"seeds": [0]}}
    assert _description.description(chosen, [tmp_path])["splits"]["val"] == 397
    (tmp_path / file).write_text("{}")
    one_line(f"{Path(file).name}: holds no '", _description.description, chosen, [tmp_path])


def test_a_damaged_branch_and_a_strange_run(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "branch1.safetensors").write_bytes(b"not weights")
    one_line("branch1.safetensors: damaged", _description.branch_records, [tmp_path])
    (tmp_path / "run.json").write_text('{"backbones": []}')
    asked = argparse.Namespace(
        points=tiny / "results/points_digits.parquet", run=tmp_path / "run.json", out=tmp_path / "r.html"
    )
    one_line("run.json: 'backbones' is not an object", report.run, asked)


@pytest.mark.parametrize("same", ["dataset_fingerprint", "backbone_fingerprint", "taps", "pool"])
def test_stores_that_do_not_belong_together(tmp_path: Path, same: str) -> None:
    from calex.steps import train_branch

    for split in ("train", "val", "test"):
        dump(tmp_path, SMALL, split=split, **({same: ["other"]} if split == "val" else {}))
    settings = {"recipe": {"name": "branchwise"}, "head": {"name": "prototype"}, "target": {"name": "kl"}}
    asked = argparse.Namespace(
        features=tmp_path, branch=1, weights=None, seed=0, settings=parse(json.dumps(settings)), device="cpu", threads=1
    )
    one_line(f"val and train are of another {same.removesuffix('_fingerprint')}", train_branch.run, asked)


def test_a_loss_that_is_no_number_is_one_line(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        dump(tmp_path, SMALL, split=split, flops=10.0, flops_to_tap=[1.0, 2.0])
    settings = {
        "recipe": {"name": "branchwise", "epochs": 3, "batch_size": 8, "learning_rate": 1e30},
        "head": {"name": "prototype", "prototypes": 2}, "target": {"name": "kl"}, "shared_core": False, "confidence": True, "correct": "label",
        "memory_mb": 64,
        "train_log_softmax": False,
    }  # fmt: skip
    from calex.steps import train_branch

    out = tmp_path / "out"
    asked = {"features": tmp_path, "branch": 1, "weights": None, "seed": 0, "device": "cpu", "threads": 1, "out": out}
    for recipe, said in (({}, "train-branch 1 seed 0: the loss became "), ({"batch_size": 1}, "recipe.batch_size: 1 is less")):
        block = parse(json.dumps(settings | {"recipe": settings["recipe"] | recipe}))
        one_line(said, train_branch.run, argparse.Namespace(**asked, settings=block))
    assert not out.exists()


def test_every_file_names_the_step_that_makes_it(tiny: Path) -> None:
    """What a finished run holds, and no name that two steps would claim."""
    for path in tiny.glob("results/**/*"):
        if path.suffix in (".npz", ".npy", ".json", ".parquet", ".safetensors") and ".zarr" not in str(path):
            step = remedy(path).removeprefix("delete it and rerun ")
            assert step in COMMANDS, path
    for name, step in (("exits1.npz", "train-branch"), ("cpm.exits.npz", "evaluate"), ("weights2.npy", "weigh-survivors")):
        assert remedy(f"results/d/b/m/default/seed0/{name}") == f"delete it and rerun {step}"
    assert remedy("somewhere/else.npz") == "delete it and rerun the step that makes it"


@pytest.mark.parametrize(
    ("weights", "fault"),
    [
        (np.ones((1, 3)), "weights of shape (1, 3) for 1 views of 24 images"),
        (np.ones((1, 24), np.int64), "weights are int64, not floats"),
        (np.full((1, 24), np.nan), "a weight is not a finite number"),
        (np.full((1, 24), -1.0), "a weight is not a finite number"),
        (np.zeros((1, 24)), "all weights are 0"),
    ],
)
def test_weights_that_are_none(tmp_path: Path, weights: np.ndarray, fault: str) -> None:
    from calex.steps.train_branch import read_weights

    np.save(tmp_path / "weights2.npy", np.ones((1, 24)))
    assert read_weights(tmp_path / "weights2.npy", (1, 24)).shape == (1, 24)
    np.save(tmp_path / "weights2.npy", weights)
    one_line(f"weights2.npy: {fault}", read_weights, tmp_path / "weights2.npy", (1, 24))
    (tmp_path / "weights2.npy").write_bytes((tmp_path / "weights2.npy").read_bytes()[:150])
    one_line("delete it and rerun weigh-survivors", read_weights, tmp_path / "weights2.npy", (1, 24))
    one_line("weights2.npy: damaged", read_weights, tmp_path / "weights2.npy", (1, 24))


def test_thresholds_of_another_number_of_classes(exits: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    thresholds = tmp_path / "t.thresholds.parquet"
    calibrate.run(
        argparse.Namespace(exits=write(other, {"val": [random_exits(0, classes=7)]}), settings=parse(SETTINGS), out=thresholds)
    )
    asked = {"exits": exits, "thresholds": thresholds, "settings": parse(EVALUATION), "key": parse(KEY)}
    one_line(
        "t.thresholds.parquet: its thresholds are not those of 3 branches and 5 classes; delete it and rerun calibrate",
        evaluate.run, argparse.Namespace(**asked, out=tmp_path / "p.points.parquet"),
    )  # fmt: skip


def test_what_cannot_be_written_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    """And not by the name that it has while it is being written."""
    path = tmp_path / ("x" * 250)  # with the hidden prefix it is longer than file systems allow
    one_line(f"{path}: cannot be written (File name too long); check the path", write_npz, path, {"a": np.zeros(3)})
    with pytest.raises(FileNotFoundError, match="other"), replacing(tmp_path / "y") as partial:
        partial.write_bytes(Path(tmp_path / "other").read_bytes())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_spaces_quotes_and_accents_and_no_home(exits: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / 'ré sults\' "x"'
    done = subprocess.run(
        [sys.executable, "-m", "calex", "calibrate", "--exits", *exits, "--settings", SETTINGS, "--out", folder / "t.parquet"],
        capture_output=True, text=True, cwd=REPOSITORY, env=os.environ | {"HOME": "/dev/null/none", "TMPDIR": "/dev/null/none"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["t.calibration.json", "t.learnt.npz", "t.parquet"]
