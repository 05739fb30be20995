"""Every injury to a store is reported by name, and nothing injured is ever handed out as data."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from feature_stores import SMALL, dump

from calex.errors import CalexError
from calex.features.layout import Layout, key
from calex.features.store import Store, open_store, verify

Injury = Callable[[Path, np.random.Generator], list[str]]
EACH = 25


def some_chunk(folder: Path, rng: np.random.Generator) -> Path:
    return folder / "train.zarr" / str(rng.choice(SMALL.chunk_paths()))


def flip_a_bit(file: Path, rng: np.random.Generator) -> None:
    data = bytearray(file.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    file.write_bytes(data)


def flipped_bit(folder: Path, rng: np.random.Generator) -> list[str]:
    flip_a_bit(file := some_chunk(folder, rng), rng)
    return [str(file)]


def truncated(folder: Path, rng: np.random.Generator) -> list[str]:
    data = (file := some_chunk(folder, rng)).read_bytes()
    file.write_bytes(data[: rng.integers(len(data))])
    return [str(file)]


def lengthened(folder: Path, rng: np.random.Generator) -> list[str]:
    with open(file := some_chunk(folder, rng), "ab") as handle:
        handle.write(rng.bytes(rng.integers(1, 9)))
    return [str(file)]


def deleted(folder: Path, rng: np.random.Generator) -> list[str]:
    (file := some_chunk(folder, rng)).unlink()
    return [str(file)]


def emptied(folder: Path, rng: np.random.Generator) -> list[str]:
    """A file system that lost the blocks but kept the length."""
    size = (file := some_chunk(folder, rng)).stat().st_size
    file.write_bytes(bytes(size))
    return [str(file)]


def swapped(folder: Path, rng: np.random.Generator) -> list[str]:
    array = rng.choice(["tap0", "tap1", "log_softmax"])
    places = [key(array, view, n) for view in range(SMALL.views) for n in range(SMALL.chunks)]
    first, second = (folder / "train.zarr" / str(name) for name in rng.choice(places, 2, replace=False))
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return [str(first), str(second)]


def metadata_bit(folder: Path, rng: np.random.Generator) -> list[str]:
    file = folder / "train.zarr" / rng.choice(["", "tap0", "tap1", "log_softmax", "labels", "index"]) / "zarr.json"
    flip_a_bit(file, rng)
    return [str(file)]


def edited_metadata(folder: Path, rng: np.random.Generator) -> list[str]:
    file = folder / "train.zarr" / rng.choice(["tap0", "tap1", "log_softmax"]) / "zarr.json"
    node = json.loads(file.read_text())
    change = rng.choice(["fill_value", "shape", "data_type", "codecs", "delete"])
    match change:
        case "delete":
            file.unlink()
            return [str(file)]
        case "fill_value":
            node["fill_value"] = 0.0
        case "shape":
            node["shape"][1] += 1
        case "data_type":
            node["data_type"] = "float64"
        case "codecs":
            node["codecs"].pop()
    file.write_text(json.dumps(node))
    return [str(file)]


def manifest_bit(folder: Path, rng: np.random.Generator) -> list[str]:
    flip_a_bit(folder / "train.json", rng)
    return [str(folder / "train.json")]


def edited_manifest(folder: Path, rng: np.random.Generator) -> list[str]:
    file = folder / "train.json"
    manifest = json.loads(file.read_text())
    match rng.choice(["label_names", "shape", "chunk", "format"]):
        case "label_names":
            manifest["provenance"]["label_names"].reverse()
        case "shape":
            manifest["layout"]["images"] -= 1
        case "chunk":
            del manifest["chunks"][str(rng.choice(SMALL.chunk_paths()))]
        case "format":
            manifest["format"] = 2
    file.write_text(json.dumps(manifest))
    return [str(file)]


INJURIES: list[Injury] = [
    flipped_bit, truncated, lengthened, deleted, emptied, swapped, metadata_bit, edited_metadata, manifest_bit, edited_manifest,
]  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    dump(folder)
    return folder


@pytest.mark.parametrize("injury", INJURIES, ids=lambda injury: injury.__name__)
def test_random_injuries(whole, tmp_path, injury):
    """EACH of a kind: opening, reading or verifying names the file, and all chunks that can be read are right."""
    truth = open_store(whole, "train")
    for seed in range(EACH):
        folder = tmp_path / str(seed)
        shutil.copytree(whole, folder)
        injured = injury(folder, np.random.default_rng(seed))
        errors = errors_of_reading(folder, truth)
        for name in injured:
            assert any(name in error for error in errors), (seed, name, errors)
            assert any(name in problem for problem in verify(folder, "train"))
        shutil.rmtree(folder)


def errors_of_reading(folder: Path, truth: Store) -> list[str]:
    """Open the store and read every chunk by every way there is; what is read equals the truth."""
    try:
        store = open_store(folder, "train")
    except CalexError as error:
        return [str(error)]
    np.testing.assert_array_equal(store.labels, truth.labels)
    np.testing.assert_array_equal(store.index, truth.index)
    errors = []
    for name in SMALL.feature_arrays:
        for view in range(SMALL.views):
            for n in range(SMALL.chunks):
                failed = 0
                for read in (store.chunk, store.mapped):
                    try:
                        np.testing.assert_array_equal(read(name, view, n), truth.chunk(name, view, n), strict=True)
                    except CalexError as error:
                        errors.append(str(error))
                        failed += 1
                assert failed in (0, 2)
    return errors


def test_verify_names_every_injury(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "store")
    rng = np.random.default_rng(0)
    injured = {name for injury in (deleted, truncated, flipped_bit, swapped) for name in injury(tmp_path / "store", rng)}
    problems = verify(tmp_path / "store", "train")
    assert len(problems) == len(injured)
    assert all(any(name in problem for problem in problems) for name in injured)


def test_a_store_of_something_else(whole, tmp_path):
    with pytest.raises(CalexError, match=r"train\.json: made from another backbone .*asked for other"):
        open_store(whole, "train", backbone="other")
    with pytest.raises(CalexError, match="made from another dataset"):
        open_store(whole, "train", dataset="other")


@pytest.mark.parametrize("change", [{"seed": 1}, {"backbone_fingerprint": "other"}, {"layout": Layout(2, 36, SMALL.taps, 3)}])
def test_the_manifest_of_another_store(whole, tmp_path, change):
    """Also of one whose shapes are the same."""
    shutil.copytree(whole, tmp_path / "mixed")
    dump(tmp_path / "other", **change)
    shutil.copy(tmp_path / "other" / "train.json", tmp_path / "mixed" / "train.json")
    with pytest.raises(CalexError, match=r"mixed/train\.zarr"):
        open_store(tmp_path / "mixed", "train")


def test_the_manifest_of_another_split(whole, tmp_path):
    for name in ("train", "test"):
        shutil.copy(whole / "train.json", tmp_path / f"{name}.json")
        shutil.copytree(whole / "train.zarr", tmp_path / f"{name}.zarr")
    with pytest.raises(CalexError, match=r"test\.json: manifest of split 'train'"):
        open_store(tmp_path, "test")


def test_half_a_store(whole, tmp_path):
    shutil.copytree(whole / "train.zarr", tmp_path / "train.zarr")
    with pytest.raises(CalexError, match=r"train\.json: no manifest"):
        open_store(tmp_path, "train")
    shutil.rmtree(tmp_path / "train.zarr")
    shutil.copy(whole / "train.json", tmp_path / "train.json")
    with pytest.raises(CalexError, match=r"train\.zarr: the store is gone"):
        open_store(tmp_path, "train")
    for text in ("", "null", "[]", "{}", "\x00", "{" * 10):
        (tmp_path / "train.json").write_text(text)
        with pytest.raises(CalexError, match=r"train\.json"):
            open_store(tmp_path, "train")


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_chunks_are_checked_too(tmp_path, codec):
    dump(tmp_path, Layout(1, 8, ((4, 3, 3),), 3, codec=codec, rows=4))
    store = open_store(tmp_path, "train")
    flip_a_bit(tmp_path / "train.zarr" / key("tap0", 0, 1), np.random.default_rng(0))
    with pytest.raises(CalexError, match=r"tap0/c\.0\.1\.0\.0\.0"):
        store.read(0, 0, 1)
