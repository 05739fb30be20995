"""What goes into a feature store comes out of it, for any shape, through this package and through plain Zarr."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import zarr
from conftest import examples
from feature_stores import PROVENANCE, SMALL, dump, features, hashes
from hypothesis import given
from hypothesis import strategies as st

from calex.__main__ import main
from calex.errors import CalexError
from calex.features.layout import CHUNK_BYTES, Layout, key
from calex.features.store import open_store, verify
from calex.features.writer import Dump

sizes = st.integers(1, 4)
layouts = st.builds(
    Layout,
    views=st.integers(1, 3),
    images=st.integers(1, 30),
    taps=st.lists(st.tuples(sizes, sizes, sizes), max_size=3),
    classes=st.integers(1, 5),
    precision=st.sampled_from(["float16", "float32"]),
    codec=st.sampled_from(["none", "lz4", "zstd"]),
    rows=st.integers(0, 40),
)


@examples(60)
@given(layout=layouts, seed=st.integers(0, 1000))
def test_round_trip(tmp_path_factory, layout, seed):
    folder = tmp_path_factory.mktemp("store")
    data = dump(folder, layout, seed)
    store = open_store(folder, "train", dataset="dataset", backbone="backbone")
    plain = zarr.open_group(folder / "train.zarr", mode="r")
    for k, tap in enumerate(data.taps):
        np.testing.assert_array_equal(store.tap(k), tap, strict=True)
        np.testing.assert_array_equal(plain[f"tap{k}"][:], tap, strict=True)
        start, stop = layout.bounds(layout.chunks - 1)
        np.testing.assert_array_equal(store.read(k, layout.views - 1, layout.chunks - 1), tap[-1, start:stop])
        np.testing.assert_array_equal(store.mapped(f"tap{k}", 0, 0), tap[0, : layout.rows])
    for name in ("log_softmax", "labels", "index"):
        np.testing.assert_array_equal(getattr(store, name), getattr(data, name), strict=True)
        np.testing.assert_array_equal(plain[name][:], getattr(data, name), strict=True)
    assert all(array.nchunks_initialized == array.nchunks for _, array in plain.arrays())
    assert store.layout == layout
    assert store.provenance == PROVENANCE
    assert verify(folder, "train") == []
    assert sorted(path.name for path in folder.iterdir()) == ["train.json", "train.zarr"]


def test_zarr_writes_the_same_bytes(tmp_path):
    """The chunks are what Zarr's own codecs make of the data, padding included."""
    for codec in ("none", "lz4", "zstd"):
        layout = Layout(1, 19, ((64, 4, 4),), 3, codec=codec, rows=8)
        data = dump(tmp_path / codec, layout)
        before = hashes(tmp_path / codec / "train.zarr")
        with zarr.config.set({"array.write_empty_chunks": True}):
            plain = zarr.open_group(tmp_path / codec / "train.zarr", mode="r+")
            plain["tap0"][:], plain["log_softmax"][:] = data.taps[0], data.log_softmax
            plain["labels"][:], plain["index"][:] = data.labels, data.index
        assert hashes(tmp_path / codec / "train.zarr") == before


@pytest.mark.parametrize("shape", [(64, 8, 8), (512, 1, 1), (2048, 7, 7), (64, 112, 112), (4096, 64, 64)])
@pytest.mark.parametrize("images", [1, 397, 50_000])
def test_default_chunks(shape, images):
    """The largest tap's chunks are at most 16 MiB, no smaller than they need to be, and evenly filled."""
    layout = Layout(1, images, (shape, (10, 1, 1)), 10)
    image, chunk = math.prod(shape) * 2, layout.arrays["tap0"].chunk_bytes
    assert chunk <= max(CHUNK_BYTES, image)
    assert layout.chunks == 1 or chunk + image > CHUNK_BYTES / 2
    assert layout.chunks * layout.rows - images < layout.chunks
    assert [layout.bounds(n)[1] for n in range(layout.chunks - 1)] == [layout.bounds(n)[0] for n in range(1, layout.chunks)]
    assert layout.bounds(layout.chunks - 1)[1] == images


@pytest.mark.parametrize(
    "layout",
    [
        Layout(1, 2000, ((64, 8, 8), (128, 4, 4)), 10),
        Layout(3, 500, ((64, 8, 8),), 100, "float32"),
        Layout(2, 1001, ((32, 4, 4),), 1000, rows=100),
        Layout(2, 1001, ((32, 4, 4),), 10, codec="lz4", rows=100),
        Layout(2, 1001, ((32, 4, 4),), 10, codec="zstd", rows=100),
    ],
)
def test_predicted_size(tmp_path, layout):
    """To within 2 %, and an upper bound for compressed stores, even of values that do not compress."""
    dump(tmp_path, layout)
    real = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert layout.bytes == pytest.approx(real, rel=0.02) if layout.codec == "none" else real <= layout.bytes


def test_an_identical_dump_makes_identical_files(tmp_path):
    dump(tmp_path / "first")
    dump(tmp_path / "second")
    assert hashes(tmp_path / "first") == hashes(tmp_path / "second")


def test_the_manifest_says_what_is_there(tmp_path):
    dump(tmp_path)
    manifest = json.loads((tmp_path / "train.json").read_text())
    assert manifest["arrays"]["tap0"] == {"shape": [2, 37, 4, 3, 3], "chunks": [1, 8, 4, 3, 3], "dtype": "float16"}
    assert manifest["provenance"] == PROVENANCE
    checksums = {name: entry["sha256"] for name, entry in manifest["chunks"].items()} | manifest["metadata"]
    assert checksums == hashes(tmp_path / "train.zarr")


def test_padding_is_never_data(tmp_path):
    """What the last chunk holds beyond N is NaN."""
    dump(tmp_path)
    raw = (tmp_path / "train.zarr" / key("tap0", 0, SMALL.chunks - 1)).read_bytes()[:-4]
    assert np.isnan(np.frombuffer(raw, np.float16).reshape(8, -1)[37 % 8 :]).all()


@pytest.mark.parametrize(
    ("precision", "value", "expected"),
    [
        ("float16", 7e4, r"tap 'layer2': image 5 \(view 1\) has values that float16 cannot hold; set `precision: float32`"),
        ("float16", np.nan, r"tap 'layer2': image 5 \(view 1\)"),
        ("float32", -np.inf, r"tap 'layer2': image 5 \(view 1\) has values that float32 cannot hold"),
    ],
)
def test_values_that_do_not_fit(tmp_path, precision, value, expected):
    layout = Layout(2, 8, ((1, 2, 2), (2, 1, 1)), 3, precision, rows=4)
    data = features(layout)
    index = np.arange(8)[::-1]
    with (
        pytest.raises(CalexError, match=expected),
        Dump(tmp_path, "train", layout, data.labels, index, PROVENANCE) as writer,
    ):
        for view, chunk, start, stop in writer.pending():
            taps = [tap[view, start:stop].astype(np.float32) for tap in data.taps]
            if (view, chunk) == (1, 0):
                taps[1][2, 1] = value
            writer.write(view, chunk, taps, data.log_softmax[view, start:stop])
        writer.finish()
    with pytest.raises(CalexError, match="run cache-features"):
        open_store(tmp_path, "train")


def test_a_chunk_of_another_shape(tmp_path):
    data = features(SMALL)
    with Dump(tmp_path, "train", SMALL, data.labels, data.index, {}) as writer:
        with pytest.raises(CalexError, match="expected"):
            writer.write(0, 0, [data.taps[0][0, :8]], data.log_softmax[0, :8])
        with pytest.raises(CalexError, match="expected"):
            writer.write(0, 0, [tap[0, :7] for tap in data.taps], data.log_softmax[0, :7])
        with pytest.raises(CalexError, match="chunks are not written yet"):
            writer.finish()


def test_labels_that_cannot_be(tmp_path):
    data = features(SMALL)
    for labels, expected in ((data.labels + 1, "expected 0 to 2"), (data.labels[1:], r"shape \(36,\)")):
        with pytest.raises(CalexError, match=expected):
            Dump(tmp_path, "train", SMALL, labels, data.index, {})


@pytest.mark.parametrize("change", [{"precision": "float61"}, {"codec": "lz"}, {"views": 0}, {"images": 0}, {"rows": -1}])
def test_a_layout_that_cannot_be(change):
    with pytest.raises(CalexError):
        Layout(**{"views": 1, "images": 1, "taps": ((1, 1, 1),), "classes": 1} | change)


def test_verify_and_inspect(tmp_path, capsys):
    dump(tmp_path)
    store = tmp_path / "train.zarr"
    assert main(["verify", str(store)]) == 0
    assert main(["inspect", str(store)]) == 0
    printed = capsys.readouterr().out
    for expected in (
        "complete, every checksum matches",
        "37 images, 2 view(s)",
        "(2, 37, 4, 3, 3)",
        "dataset_fingerprint",
        "é",
        "largest",
    ):
        assert expected in printed
    (store / key("tap1", 1, 2)).write_bytes(b"")
    assert main(["verify", str(store)]) == 2
    assert key("tap1", 1, 2) in capsys.readouterr().err
    assert main(["inspect", str(tmp_path / "test.zarr")]) == 2
    assert "no manifest" in capsys.readouterr().err
