"""The published formats, read back exactly; and what each kind of damage is called."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import dataset_files
import numpy as np
import pytest
import yaml
from conftest import REPOSITORY, run_calex
from PIL import Image

from calex import config, images, plugins
from calex.datasets import _cifar, _decoding, _downloads, cifar10, cifar100, cinic10, fashion_mnist
from calex.errors import CalexError
from calex.images.splitting import hold_out

NOWHERE = Path("no/resources")


def loaded(name: str, **options: Any) -> images.Images:
    """As prepare-dataset does it."""
    block = plugins.complete("datasets", {"name": name, **options}, "source")
    return images.checked(plugins.load("datasets", name).load(NOWHERE, **plugins.options_of(block)), name)


def refused(said: str, name: str, **options: Any) -> None:
    with pytest.raises(CalexError) as error:
        loaded(name, **options)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def sizes(dataset: images.Images) -> list[int]:
    return np.bincount(dataset.split, minlength=3).tolist()


def repickled(path: Path, **changes: Any) -> None:
    """A CIFAR file with some of its entries replaced."""
    content = pickle.loads(path.read_bytes(), encoding="latin1")
    path.write_bytes(dataset_files.python2_pickle(content | changes))


# CIFAR


def test_cifar_pickles_are_as_python_2_wrote_them(tmp_path: Path) -> None:
    data = (dataset_files.cifar10(tmp_path) / "cifar-10-batches-py/test_batch").read_bytes()
    assert data.startswith(b"\x80\x02}q\x00(U\x0bbatch_label") and b"cnumpy.core.multiarray\n_reconstruct\n" in data
    content = pickle.loads(data, encoding="bytes")  # as CIFAR's own page reads it
    assert set(content) == {b"batch_label", b"labels", b"data", b"filenames"} and content[b"data"].shape == (30, 3072)


def test_cifar10(tmp_path: Path) -> None:
    dataset = loaded("cifar10", folder=str(dataset_files.cifar10(tmp_path)), val=50)
    assert dataset.images.shape == (230, 32, 32, 3) and sizes(dataset) == [150, 50, 30]
    assert dataset.names.tolist() == cinic10.NAMES
    for batch in range(6):
        rows = slice(40 * batch, 40 * batch + (40 if batch < 5 else 30))
        np.testing.assert_array_equal(dataset.labels[rows], np.arange(len(dataset.labels[rows])) % 10)
        np.testing.assert_array_equal(dataset.images[rows], dataset_files.coloured(dataset.labels[rows], 10, seed=batch))
    assert (dataset.split[:200] < 2).all() and (dataset.split[200:] == 2).all()


def test_a_cifar_record_is_three_planes_by_hand() -> None:
    record = np.zeros((1, 3072), np.uint8)
    record[0, [5 * 32 + 7, 1024 + 1, 2048 + 1023]] = 10, 20, 30  # red in row 5, green in row 0, blue in the last corner
    pixels, _ = _cifar.batch({"data": record, "labels": [0]}, "labels", 2, "mine")
    assert pixels[0, 5, 7].tolist() == [10, 0, 0] and pixels[0, 0, 1].tolist() == [0, 20, 0]
    assert pixels[0, 31, 31].tolist() == [0, 0, 30] and pixels.sum() == 60


@pytest.mark.parametrize(("labels", "classes"), [("fine", 100), ("coarse", 20)])
def test_cifar100_has_fine_and_coarse_labels(tmp_path: Path, labels: str, classes: int) -> None:
    dataset = loaded("cifar100", folder=str(dataset_files.cifar100(tmp_path)), labels=labels, val=200)
    names = {"fine": [f"fine_{number}" for number in range(100)], "coarse": dataset_files.SUPERCLASSES}
    assert dataset.names.tolist() == names[labels]
    np.testing.assert_array_equal(dataset.labels, np.concatenate([np.arange(1000), np.arange(200)]) % 100 % classes)
    assert sizes(dataset) == [800, 200, 200]
    assert (np.bincount(dataset.labels[dataset.indices("val")]) == 200 // classes).all()


def test_held_out_images_are_fixed_and_in_proportion() -> None:
    labels = np.repeat(np.arange(4), [100, 200, 300, 400])
    split = hold_out(labels, 50, seed=3)
    assert np.bincount(labels[split == 1]).tolist() == [5, 10, 15, 20]
    np.testing.assert_array_equal(split, hold_out(labels, 0.05, seed=3))
    assert not np.array_equal(split, hold_out(labels, 50, seed=4))
    with pytest.raises(CalexError, match="cannot hold val=1000 of 1000 training images out"):
        hold_out(labels, 1000)


def test_a_share_that_leaves_a_class_out_names_the_least_that_works() -> None:
    labels = np.repeat(np.arange(3), [600, 380, 20])
    with pytest.raises(CalexError, match=r"the smallest, 'rare', has 20; the least that works is val: (\d+)") as error:
        hold_out(labels, 10, names=["common", "some", "rare"])
    least = int(str(error.value).split("val: ")[1].split(",")[0])
    assert (np.bincount(labels[hold_out(labels, least) == 1]) > 0).all()
    with pytest.raises(CalexError, match=r"cannot hold test=0\.001 of 1000 training images out"):
        hold_out(labels, 0.001, key="test")
    with pytest.raises(CalexError):
        hold_out(labels, least - 1)


class Hostile:
    """A pickle that would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_cannot_run_anything(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"data": Hostile(f"touch {tmp_path / 'ran'}")}, protocol=protocol)
    with pytest.raises(CalexError, match=r"mine: not a CIFAR file \(it asks for posix\.system\)"):
        _cifar.unpickled(data, "mine")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["builtins eval", "numpy load", "numpy.core.multiarray fromfile", "builtins getattr"])
def test_only_arrays_may_be_unpickled(name: str) -> None:
    with pytest.raises(CalexError, match="it asks for"):
        _cifar.unpickled(f"c{name.replace(' ', chr(10))}\n.".encode(), "mine")


def test_every_cut_of_a_pickle_is_one_line(tmp_path: Path) -> None:
    data = (dataset_files.cifar100(tmp_path, 100, 100) / "cifar-100-python/meta").read_bytes()
    for length in range(0, len(data), 7):
        with pytest.raises(CalexError, match="mine: not a CIFAR file") as error:
            _cifar.unpickled(data[:length], "mine")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"labels": [0, 1] * 14 + [0, 10]}, "test_batch: image 29 has label 10, outside 0..9"),
        ({"labels": [-1] * 30}, "test_batch: image 0 has label -1, outside 0..9"),
        ({"labels": [0] * 29}, "test_batch: 'labels' must be a list of 30 whole numbers"),
        ({"labels": [0.5] * 30}, "test_batch: 'labels' must be a list of 30 whole numbers"),
        ({"data": np.zeros((30, 3071), np.uint8)}, "test_batch: records must be (n, 3072) uint8, got uint8 (30, 3071)"),
        ({"data": np.zeros((30, 3072), np.int16)}, "test_batch: records must be (n, 3072) uint8, got int16"),
        ({"data": "text"}, "test_batch: records must be (n, 3072) uint8, got str"),
        ({"labels": [0] * 30}, "9 classes have no images in test ('automobile', 'bird'"),
    ],
)
def test_wrong_batches(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    repickled(dataset_files.cifar10(tmp_path) / "cifar-10-batches-py/test_batch", **changes)
    refused(said, "cifar10", folder=str(tmp_path), val=50)


def test_a_missing_batch_or_folder(tmp_path: Path) -> None:
    root = dataset_files.cifar10(tmp_path) / "cifar-10-batches-py"
    (root / "data_batch_3").unlink()
    refused("incomplete, there is no file 'data_batch_3'", "cifar10", folder=str(root))
    refused("no such folder; correct `folder`", "cifar10", folder=str(tmp_path / "elsewhere"))
    refused("holds neither cifar-100-python.tar.gz nor its files (meta, …)", "cifar100", folder=str(tmp_path))
    refused("source.folder: expected a text or null, got 5", "cifar10", folder=5)


# Archives


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CIFAR-100 as a .tar.gz whose checksum counts as published."""
    dataset_files.cifar100(tmp_path / "made")
    path = dataset_files.archived(tmp_path / "made", tmp_path / "archive" / cifar100.ARCHIVE.file)
    monkeypatch.setattr(cifar100, "ARCHIVE", replace(cifar100.ARCHIVE, md5=_downloads.md5(path)))
    return path


def test_an_archive_a_folder_with_it_and_its_files_are_the_same(archive: Path) -> None:
    found = {
        loaded("cifar100", folder=str(place), val=200).fingerprint
        for place in (archive, archive.parent, archive.parents[1] / "made", archive.parents[1] / "made/cifar-100-python")
    }
    assert len(found) == 1
    assert [path.name for path in archive.parent.iterdir()] == [archive.name], "nothing is unpacked"


def test_an_archive_needs_its_published_checksum(archive: Path) -> None:
    with open(archive, "ab") as handle:
        handle.write(b"\0")
    refused(f"{archive}: wrong checksum, found {_downloads.md5(archive)}, expected", "cifar100", folder=str(archive))


@pytest.mark.parametrize("packing", ["gz", "xz", "bz2", ""])
def test_an_archive_of_ones_own_is_taken_with_its_checksum(archive: Path, tmp_path: Path, packing: str) -> None:
    expected = loaded("cifar100", folder=str(archive), val=200).fingerprint
    mine = tmp_path / "mine" / archive.name
    mine.parent.mkdir()
    with tarfile.open(mine, f"w:{packing}") as tar:
        tar.add(tmp_path / "made/cifar-100-python", arcname="cifar-100-python")
    found = _downloads.md5(mine)
    for folder in (mine, mine.parent):
        refused(f"expected {cifar100.ARCHIVE.md5} (MD5)", "cifar100", folder=str(folder))
        refused(f"if you trust it, set `md5: {found}` beside `folder`", "cifar100", folder=str(folder))
        assert loaded("cifar100", folder=str(folder), val=200, md5=found.upper()).fingerprint == expected
    refused("wrong checksum", "cifar100", folder=str(archive), md5=found)
    refused("source.md5: 'abc' is no MD5 checksum", "cifar100", folder=str(mine), md5="abc")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\n<!DOCTYPE html><html>404</html>", "not the archive, it is a web page, not the file itself; get it again"),
        (b"version https://git-lfs.github.com/spec/v1\n", "run `git lfs pull`"),
        (b"PK\x03\x04", "it is a zip archive"),
        (b"", "it is empty"),
    ],
)
def test_what_is_no_archive_is_called_what_it_is(archive: Path, content: bytes, said: str) -> None:
    archive.write_bytes(content)
    refused(said, "cifar100", folder=str(archive))
    refused(said.split("; get")[0][-20:], "cifar100", folder=str(archive), md5=_downloads.md5(archive))


def hostile(kind: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo({"up": "a/../../out", "absolute": "/elsewhere/out"}.get(kind, "cifar-100-python/train"))
    if kind in ("symbolic", "hard"):
        member.type = tarfile.SYMTYPE if kind == "symbolic" else tarfile.LNKTYPE
        member.linkname = "/etc/passwd"
    return member


@pytest.mark.parametrize("kind", ["up", "absolute", "symbolic", "hard"])
def test_archives_that_reach_out_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / cifar100.ARCHIVE.file
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(hostile(kind), io.BytesIO())
    monkeypatch.setattr(cifar100, "ARCHIVE", replace(cifar100.ARCHIVE, md5=_downloads.md5(path)))
    said = "climbs out of the archive" if kind in ("up", "absolute") else "is a link or a device"
    refused(f"unsafe, its entry '{hostile(kind).name}' {said}", "cifar100", folder=str(path))


def test_a_cut_archive_is_one_line(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = archive.read_bytes()
    for length in (0, 30, len(whole) // 4, len(whole) // 2):
        archive.write_bytes(whole[:length])
        monkeypatch.setattr(cifar100, "ARCHIVE", replace(cifar100.ARCHIVE, md5=_downloads.md5(archive)))
        refused(f"{archive}: not a complete .tar.gz", "cifar100", folder=str(archive))


# CINIC-10


def test_cinic10_keeps_its_own_split(tmp_path: Path) -> None:
    dataset = loaded("cinic10", folder=str(dataset_files.cinic(tmp_path)), per_class=4)
    assert dataset.images.shape == (120, 32, 32, 3) and sizes(dataset) == [40, 40, 40]
    assert dataset.names.tolist() == cinic10.NAMES
    for part, folder in enumerate(("train", "valid", "test")):
        for label, name in enumerate(cinic10.NAMES):
            rows = np.flatnonzero((dataset.split == part) & (dataset.labels == label))
            expected = dataset_files.coloured(np.full(4, label), 10, seed=100 * part + label)
            np.testing.assert_array_equal(dataset.images[rows[[0, 3]]], expected[[0, 3]])
            grey = np.asarray(Image.fromarray(expected[1]).convert("L"))
            np.testing.assert_array_equal(dataset.images[rows[1]], grey[..., None].repeat(3, axis=2))
            with Image.open(tmp_path / folder / name / "n0002.png") as palette:
                assert palette.mode == "P"
                np.testing.assert_array_equal(dataset.images[rows[2]], np.asarray(palette.convert("RGB")))


@pytest.mark.parametrize("prefix", [".", "CINIC-10", ""])
def test_cinic10_from_its_archive_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str) -> None:
    folder = dataset_files.cinic(tmp_path / "made")
    path = dataset_files.archived(folder, tmp_path / "CINIC-10.tar.gz", prefix)
    monkeypatch.setattr(cinic10, "ARCHIVE", replace(cinic10.ARCHIVE, md5=_downloads.md5(path)))
    assert (
        loaded("cinic10", folder=str(path), per_class=4).fingerprint
        == loaded("cinic10", folder=str(folder), per_class=4).fingerprint
    )


def test_damage_to_cinic10(tmp_path: Path) -> None:
    folder = dataset_files.cinic(tmp_path)
    refused("train/airplane holds 4 images, expected 9000", "cinic10", folder=str(folder))
    cat = folder / "valid/cat/n0001.png"
    whole = cat.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"no image at all"):
        cat.write_bytes(data)
        refused(f"{folder}: valid/cat/n0001.png: not a readable image", "cinic10", folder=str(folder), per_class=4)
    Image.new("RGB", (32, 31)).save(cat)
    refused("valid/cat/n0001.png: 32×31 pixels, expected 32×32", "cinic10", folder=str(folder), per_class=4)
    cat.unlink()
    refused("valid/cat holds 3 images, expected 4", "cinic10", folder=str(folder), per_class=4)
    cat.write_bytes(whole)
    dataset_files.coloured(np.zeros(1, int), 1)
    (folder / "test/zebra").mkdir()
    (folder / "test/zebra/1.png").write_bytes(whole)
    refused("unexpected class folder 'test/zebra'", "cinic10", folder=str(folder), per_class=4)


# Fashion-MNIST


@pytest.mark.parametrize("packed", [True, False])
def test_fashion_mnist(tmp_path: Path, packed: bool) -> None:
    dataset = loaded("fashion_mnist", folder=str(dataset_files.fashion(tmp_path, packed=packed)), val=20)
    assert dataset.images.shape == (250, 28, 28, 1) and sizes(dataset) == [180, 20, 50]
    np.testing.assert_array_equal(dataset.labels, np.concatenate([np.arange(200), np.arange(50)]) % 10)
    np.testing.assert_array_equal(dataset.images[:200, ..., 0], dataset_files.coloured(np.arange(200) % 10, 10, 28, 0)[..., 0])


def test_an_idx_file_by_hand(tmp_path: Path) -> None:
    (tmp_path / "two").write_bytes(bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3, 1, 2, 3, 4, 5, 6]))
    assert fashion_mnist.idx(tmp_path / "two", 3).tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


@pytest.mark.skipif(not fashion_mnist.PACKAGED.is_dir(), reason="the Debian package dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist_is_found_where_debian_puts_it() -> None:
    dataset = loaded("fashion_mnist")
    assert sizes(dataset) == [55000, 5000, 10000]
    assert (np.bincount(dataset.labels[dataset.indices("val")]) == 500).all()
    assert (np.bincount(dataset.labels[dataset.indices("test")]) == 1000).all()


LABELS, PIXELS = "t10k-labels-idx1-ubyte", "t10k-images-idx3-ubyte"


@pytest.mark.parametrize(
    ("file", "correct", "said"),
    [
        (LABELS, lambda data: data[:-1] + b"\x0a", f"{LABELS}: image 49 has label 10, outside 0..9"),
        (LABELS, lambda data: data[:-1], f"{LABELS}: 49 bytes of values for 50"),
        (LABELS, lambda data: dataset_files.idx(np.zeros(49)), f"{LABELS}: 49 labels for 50 images"),
        (PIXELS, lambda data: data + b"\0", f"{PIXELS}: 39201 bytes of values for 50 × 28 × 28"),
        (PIXELS, lambda data: b"\x1f\x8b" + data, f"{PIXELS}: not an IDX file of bytes in 3 dimensions"),
        (PIXELS, lambda data: data[:3], f"{PIXELS}: not an IDX file"),
        (LABELS, lambda data: dataset_files.idx(np.zeros(50)), "9 classes have no images in test ('Trouser', 'Pullover'"),
    ],
)
def test_damaged_idx_files(tmp_path: Path, file: str, correct: Callable[[bytes], bytes], said: str) -> None:
    path = dataset_files.fashion(tmp_path, packed=False) / file
    path.write_bytes(correct(path.read_bytes()))
    refused(said, "fashion_mnist", folder=str(tmp_path), val=20)


def test_missing_and_cut_idx_files(tmp_path: Path) -> None:
    path = dataset_files.fashion(tmp_path) / f"{PIXELS}.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    refused(f"{path}: not a complete .gz file", "fashion_mnist", folder=str(tmp_path), val=20)
    path.unlink()
    refused(f"incomplete, there is no file '{PIXELS}' (or .gz)", "fashion_mnist", folder=str(tmp_path), val=20)


# Image files


def test_an_image_folder_of_every_kind_and_size(tmp_path: Path) -> None:
    folder = dataset_files.image_folder(tmp_path)
    dataset = loaded("imagefolder", folder=str(folder), size=24, val=0.25)
    assert dataset.images.shape == (48, 24, 24, 3) and sizes(dataset) == [18, 6, 24]
    assert dataset.names.tolist() == ["cat", "dog"]
    assert np.bincount(dataset.labels[dataset.split == 1]).tolist() == [3, 3]
    # Every kind of file shows its class's colour; without their hue, grey ones its brightness.
    paths = [path for part in ("train", "test") for name in ("cat", "dog") for path in sorted((folder / part / name).iterdir())]
    colours = np.random.default_rng(99).integers(0, 200, (2, 3)) + 20
    grey = colours @ [0.299, 0.587, 0.114]
    for path, label, pixels in zip(paths, dataset.labels, dataset.images, strict=True):
        found = pixels[:10].reshape(-1, 3).mean(axis=0)  # above the stripe
        if any(kind in path.name for kind in ("scan", "deep", "stamp")):
            np.testing.assert_allclose(found, grey[label], atol=5, err_msg=str(path))
        elif not any(kind in path.name for kind in ("fax", "drawing", "palette")):
            np.testing.assert_allclose(found, colours[label], atol=8, err_msg=str(path))


def test_a_val_folder_is_used_and_names_are_in_order(tmp_path: Path) -> None:
    folder = dataset_files.image_folder(tmp_path, ("zebra", "ant", "bee"), ("train", "val", "test"))
    dataset = loaded("imagefolder", folder=str(folder), size=8, grey=True)
    assert dataset.images.shape == (108, 8, 8, 1) and sizes(dataset) == [36, 36, 36]
    assert dataset.names.tolist() == ["ant", "bee", "zebra"]


def picture(pixels: Any, mode: str | None = None, file: str = "PNG", **options: Any) -> io.BytesIO:
    buffer = io.BytesIO()
    image = Image.fromarray(np.array(pixels, np.uint16 if mode == "I;16" else np.uint8))
    image.save(buffer, file, **options)
    buffer.seek(0)
    return buffer


def test_pixels_by_hand() -> None:
    def read(file: io.BytesIO) -> list[Any]:
        return _decoding.decode(file, "mine")[0].tolist()

    assert read(picture([[0, 7]])) == [[0, 0, 0], [7, 7, 7]]
    assert read(picture([[[1, 2, 3]]])) == [[1, 2, 3]]
    # Half transparent red over white is pink; fully transparent is white, whatever colour lies below.
    assert read(picture([[[255, 0, 0, 128], [0, 0, 0, 0]]])) == [[255, 127, 127], [255, 255, 255]]
    assert read(picture([[0, 257, 257 * 128, 65535, 400]], "I;16")) == [[v, v, v] for v in (0, 1, 128, 255, 2)]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    palette.putpalette([9, 8, 7, 1, 1, 1])
    buffer = io.BytesIO()
    palette.save(buffer, "PNG", transparency=1)
    buffer.seek(0)
    assert read(buffer) == [[9, 8, 7], [255, 255, 255]]


def test_how_images_become_squares() -> None:
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, :4, 0], wide[:, 4:8, 1], wide[:, 8:, 2] = 200, 200, 200  # red, green, blue
    cropped = _decoding.decode(picture(wide), "mine", 4, "crop")
    assert (cropped == [0, 200, 0]).all()
    stretched = _decoding.decode(picture(wide), "mine", 3, "stretch")
    assert stretched[1].argmax(axis=1).tolist() == [0, 1, 2]
    turned = Image.Exif()
    turned[0x0112] = 6  # taken with the camera on its side: the left edge belongs on top
    upright = _decoding.decode(picture(wide, exif=turned), "mine", 3, "stretch")
    assert upright[:, 1].argmax(axis=1).tolist() == [0, 1, 2]


def test_pixels_without_a_white_are_refused(tmp_path: Path) -> None:
    for values, said in ((np.zeros((4, 4), np.float32), "floating-point"), (np.full((4, 4), 70000, np.int32), "do not fit")):
        Image.fromarray(values).save(tmp_path / "deep.tif")
        with pytest.raises(CalexError, match=said):
            _decoding.decode(tmp_path / "deep.tif", "deep.tif")


def test_damage_to_image_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = dataset_files.image_folder(tmp_path / "mine")
    options = {"folder": str(folder), "size": 8}
    (folder / "train/cat/notes.txt").write_text("hello")
    loaded("imagefolder", **options)
    assert "imagefolder: 1 left out: .txt files, such as" in capsys.readouterr().err
    photo = folder / "test/dog/0_photo.jpg"
    whole = photo.read_bytes()
    for data in (whole[: len(whole) // 2], b"", b"no image at all"):
        photo.write_bytes(data)
        refused(f"{photo}: not a readable image", "imagefolder", **options)
    photo.write_bytes(whole)
    (folder / "test/bird").mkdir()
    refused("class 'bird' has no folder in train", "imagefolder", **options)
    (folder / "train/bird").mkdir()
    refused("no images in train/bird, test/bird", "imagefolder", **options)
    (folder / "test").rename(folder / "tests")
    refused(f"{folder}: no folder 'val' or 'test' in it, and 'tests' may be one", "imagefolder", **options)
    refused("no folder; set `folder`", "imagefolder")
    refused("no such folder", "imagefolder", folder=str(tmp_path / "elsewhere"))
    refused("source.size: 0 is less than 1", "imagefolder", folder=str(folder), size=0)
    refused("source.fit: unknown value 'crap', did you mean 'crop'?", "imagefolder", fit="crap")


def test_the_example_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    section = (REPOSITORY / "config/extending.md").read_text().split("## Your own data and network")[1]
    example = yaml.safe_load(section.split("```yaml")[1].split("```")[0])
    full = config.read_yaml(REPOSITORY / "config/config.yaml")
    full["datasets"] |= example["datasets"]
    schema = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    source = config.validated(full, schema, "mine.yaml")["datasets"]["photos"]["source"]
    dataset_files.image_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    dataset = loaded(**source)
    assert dataset.images.shape == (48, 64, 64, 3) and sizes(dataset) == [21, 3, 24]


def test_a_fault_by_hand_is_one_line_and_writes_nothing(tmp_path: Path) -> None:
    source = f'{{"name": "cinic10", "folder": "{dataset_files.cinic(tmp_path / "made")}", "per_class": 5}}'
    done = run_calex("prepare-dataset", "--source", source, "--resources", tmp_path, "--out", tmp_path / "out" / "images.npz")
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if "error" in line] == [
        f"calex prepare-dataset: error: {tmp_path / 'made'}: train/airplane holds 4 images, expected 5; get the archive again, or"
        " set `per_class` for a set of your own"
    ]
    assert not (tmp_path / "out").exists()


def test_the_published_checksums_and_names_are_not_touched() -> None:
    assert (cifar10.ARCHIVE.file, cifar10.ARCHIVE.md5) == ("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a")
    assert (cifar100.ARCHIVE.file, cifar100.ARCHIVE.md5) == ("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85")
    assert (cinic10.ARCHIVE.file, cinic10.ARCHIVE.md5) == ("CINIC-10.tar.gz", "6ee4d0c996905fe93221de577967a372")
