"""Folders of images as people have them: what is taken, what is left out, what is told, and what is refused with its remedy."""

from __future__ import annotations

import io
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import REPOSITORY
from PIL import Image

from calex import images, plugins
from calex.datasets import _decoding, _memory, imagefolder
from calex.datasets._decoding import any_size
from calex.deploy import pictures
from calex.errors import CalexError
from calex.images.audit import audit


def loaded(folder: Path, **options: Any) -> images.Images:
    """As prepare-dataset does it."""
    block = plugins.complete("datasets", {"name": "imagefolder", "folder": str(folder), "size": 8, **options}, "source")
    return images.checked(imagefolder.load(Path("no/resources"), **plugins.options_of(block)), "imagefolder")


def refused(folder: Path, *said: str, **options: Any) -> None:
    with pytest.raises(CalexError) as error:
        loaded(folder, **options)
    for text in said:
        assert text in str(error.value), error.value
    assert "\n" not in str(error.value)


def photo(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8))


def photos(
    folder: Path, splits: tuple[str, ...] = ("train", "test"), classes: tuple[str, ...] = ("cat", "dog"), count: int = 10
) -> Path:
    """So many different photographs a class and split; `""` as the split makes a flat folder."""
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                photo(10000 * s + 100 * c + i).save(folder / split / name / f"{i:02}.png")
    return folder


def sizes(dataset: images.Images) -> list[int]:
    return np.bincount(dataset.split, minlength=3).tolist()


# Splits


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev", "Valid", "VALIDATION"])
def test_a_split_has_several_names(tmp_path: Path, name: str) -> None:
    assert sizes(loaded(photos(tmp_path, ("Training", name, "TEST")))) == [20, 20, 20]


def test_all_names_of_a_dataset_give_the_same_images(tmp_path: Path) -> None:
    one = loaded(photos(tmp_path / "one", ("train", "val", "test")))
    assert one.fingerprint == loaded(photos(tmp_path / "two", ("Training", "dev", "Testing"))).fingerprint


def test_two_names_of_one_split_are_refused(tmp_path: Path) -> None:
    photos(tmp_path, ("train", "val", "valid", "test"))
    refused(tmp_path, "'val' and 'valid' are both the val images; join them or rename one")


def test_a_folder_that_is_no_split_is_told(tmp_path: Path) -> None:
    photos(tmp_path, ("train", "val", "test"))
    (tmp_path / "extra").mkdir()
    notes = loaded(tmp_path).notes
    assert notes.skipped == {"unknown folders": 1}
    assert notes.warnings == (
        f"1 left out: unknown folders, such as {tmp_path / 'extra'}; a split is named train, val or test",
    )


@pytest.mark.parametrize(
    ("splits", "said"),
    [
        (("train", "tests"), "no folder 'val' or 'test' in it, and 'tests' may be one; did you mean 'test'?"),
        (("train", "test", "valdiation"), "no folder 'val' in it, and 'valdiation' may be one; did you mean 'validation'?"),
        (("train", "test", "holdout"), "'holdout' may be one; rename it to val, or move it away"),
        (("train", "eval"), "'eval' may be one; rename it to val or test, or move it away"),
        (("val", "test"), "no folder 'train' in it"),
    ],
)
def test_a_folder_that_may_be_a_missing_split_is_refused(tmp_path: Path, splits: tuple[str, ...], said: str) -> None:
    refused(photos(tmp_path, splits), said)


def test_test_and_val_are_held_out_where_they_have_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    no_test = photos(tmp_path / "no_test", ("train", "val"), count=20)
    assert sizes(loaded(no_test, test=0.25)) == [30, 40, 10]
    assert "no folder of test images: test=0.25 of 40 are held out, split_seed 0" in capsys.readouterr().err
    flat = photos(tmp_path / "flat", ("",), ("a", "b", "c"), count=20)
    dataset = loaded(flat, test=12, val=0.25)
    assert sizes(dataset) == [36, 12, 12] and dataset.names.tolist() == ["a", "b", "c"]
    for split in images.SPLITS:
        assert len(set(np.bincount(dataset.labels[dataset.indices(split)]))) == 1
    assert dataset.fingerprint == loaded(flat, test=12, val=0.25).fingerprint
    assert dataset.fingerprint != loaded(flat, test=12, val=0.25, split_seed=1).fingerprint
    assert audit(dataset)["identical"]["test_in_train"] == 0


def test_a_class_may_be_named_like_a_split(tmp_path: Path) -> None:
    assert loaded(photos(tmp_path, ("",), ("car", "plane", "train"))).names.tolist() == ["car", "plane", "train"]


# The level of the folder


def test_a_folder_at_the_wrong_level_is_told_which_is_meant(tmp_path: Path) -> None:
    inner = photos(tmp_path / "outer/photos")
    refused(tmp_path / "outer", f"the splits lie one level deeper; set `folder` to {inner}")
    refused(inner / "train", "is the split 'train' of a dataset, with 'test' beside it", f"set `folder` to {inner}")
    refused(inner / "train/cat", "holds images, but no folders of classes", f"set `folder` to {inner}")
    flat = photos(tmp_path / "above/flat", ("",))
    refused(tmp_path / "above", f"the folders of classes lie one level deeper; set `folder` to {flat}")
    refused(flat / "cat", f"set `folder` to {flat}")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no folder with images; put images into")
    refused(
        photos(tmp_path / "crossed", ("cat", "dog"), ("train", "test")),
        "splits lie below classes (cat/train); move cat/train to",
    )
    deep = photos(tmp_path / "deep", ("train/images", "test/images"))
    refused(deep, f"the folders of classes lie one level deeper, in {deep / 'train/images'}; move them up")
    direct = photos(tmp_path / "direct")
    for file in list((direct / "test").rglob("*.png")):
        file.rename(direct / "test" / f"{file.parent.name}{file.name}")
    for name in ("cat", "dog"):
        (direct / "test" / name).rmdir()
    refused(direct, "0 class folders, images lie directly in it")


def test_the_only_split_of_a_dataset_is_a_flat_folder(tmp_path: Path) -> None:
    assert sizes(loaded(photos(tmp_path / "photos", ("train",)) / "train")) == [14, 2, 4]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("photos.zip", "is an archive; unpack it (`unzip"),
        ("photos.tar.gz", "is an archive; unpack it (`mkdir"),
        ("photos.tgz", "tar -xf"),
        ("photos.csv", "is a file; set `folder` to the folder"),
    ],
)
def test_a_file_in_place_of_a_folder(tmp_path: Path, name: str, said: str) -> None:
    (tmp_path / name).write_bytes(b"anything")
    refused(tmp_path / name, said)


# Files


@pytest.mark.parametrize(
    "name",
    [
        ".ipynb_checkpoints",
        "@eaDir",
        "__MACOSX",
        ".Trashes",
        "$RECYCLE.BIN",
        "lost+found",
        "System Volume Information",
        "#recycle",
    ],
)
def test_system_folders_are_passed_over_at_any_depth(tmp_path: Path, name: str) -> None:
    expected = loaded(photos(tmp_path)).fingerprint
    for place in (tmp_path, tmp_path / "train", tmp_path / "train/cat", tmp_path / "test/dog/deep/er"):
        (place / name / "cat").mkdir(parents=True)
        photo(99).save(place / name / "cat" / "copy.png")
        photo(98).save(place / name / "copy.png")
    (tmp_path / "train/cat/Thumbs.db").write_bytes(b"")
    (tmp_path / "train/cat/._00.png").write_bytes(b"\0\5\x16\7")
    dataset = loaded(tmp_path)
    assert dataset.fingerprint == expected
    assert dataset.notes.skipped == {"hidden or system files and folders": 6} and dataset.notes.warnings == ()


def test_links_give_each_real_file_once(tmp_path: Path) -> None:
    expected = loaded(photos(tmp_path / "real")).fingerprint
    cat = tmp_path / "real/train/cat"
    (cat / "loop").symlink_to(".")
    (cat / "up").symlink_to("..")
    (cat / "out").symlink_to(tmp_path)
    (cat / "a_copy.png").symlink_to("05.png")
    os.link(cat / "06.png", cat / "zz.png")
    (cat / "gone.png").symlink_to("nowhere.png")
    dataset = loaded(tmp_path / "real")
    assert dataset.fingerprint == expected
    assert dataset.notes.skipped == {
        "links to a folder that they lie in": 3, "links to an image of the same class": 2, "links that lead nowhere": 1,
    }  # fmt: skip


def test_a_link_back_is_no_class_and_no_split(tmp_path: Path) -> None:
    expected = loaded(photos(tmp_path / "real")).fingerprint
    flat = loaded(photos(tmp_path / "flat", ("",)))
    for place in (tmp_path / "real", tmp_path / "real/train", tmp_path / "flat"):
        (place / "loop").symlink_to(".")
        (place / "up").symlink_to("..")
    dataset = loaded(tmp_path / "real")
    assert dataset.fingerprint == expected and dataset.notes.skipped == {"links to a folder that they lie in": 4}
    assert loaded(tmp_path / "flat").fingerprint == flat.fingerprint


def test_a_dataset_may_be_made_of_links(tmp_path: Path) -> None:
    expected = loaded(photos(tmp_path / "real")).fingerprint
    for split in ("train", "test"):
        (tmp_path / "folders" / split).mkdir(parents=True)
        for name in ("cat", "dog"):
            (tmp_path / "folders" / split / name).symlink_to(tmp_path / "real" / split / name)
            (tmp_path / "files" / split / name).mkdir(parents=True)
            for file in (tmp_path / "real" / split / name).iterdir():
                (tmp_path / "files" / split / name / file.name).symlink_to(file)
    assert loaded(tmp_path / "folders").fingerprint == loaded(tmp_path / "files").fingerprint == expected


def test_links_that_loop_through_each_other_end(tmp_path: Path) -> None:
    cat = photos(tmp_path / "real") / "train/cat"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        photo(ord(name[0])).save(tmp_path / name / f"{name}.png")
    (cat / "more").symlink_to(tmp_path / "one")
    (tmp_path / "one/two").symlink_to(tmp_path / "two")
    (tmp_path / "two/one").symlink_to(tmp_path / "one")
    assert sizes(loaded(tmp_path / "real", val=2)) == [20, 2, 20]


def test_a_link_into_another_class_or_split_is_kept_and_told_by_the_audit(tmp_path: Path) -> None:
    photos(tmp_path)
    (tmp_path / "test/cat/leak.png").symlink_to("../../train/cat/00.png")
    dataset = loaded(tmp_path, val=2)
    assert sizes(dataset)[2] == 21 and sum(audit(dataset)["identical"][f"test_in_{split}"] for split in ("train", "val")) == 1


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pdf", b"%PDF-1.4", "1 left out: documents or drawings (.pdf), such as"),
        ("b.eps", b"%!PS-Adobe", "render them to PNG"),
        ("c.HEIC", b"\0\0\0\x18ftypheic", "1 left out: HEIC photos (.heic), such as"),
        ("d.h5", b"\x89HDF\r\n", "arrays (.h5)"),
        ("e.MP4", b"\0\0\0\x18ftypmp42", "videos (.mp4)"),
        ("f.nef", b"MM", "raw photos (.nef)"),
        ("g.zip", b"PK", "archives (.zip)"),
    ],
)
def test_what_is_no_photo_is_left_out_with_what_to_do(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (photos(tmp_path) / "train/cat" / name).write_bytes(content)
    dataset = loaded(tmp_path)
    assert sizes(dataset) == [18, 2, 20] and said in dataset.notes.warnings[0] and name in dataset.notes.warnings[0]


def test_other_files_are_counted_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photos(tmp_path)
    for name in ("train/cat/a.txt", "train/dog/b.txt", "labels.csv", "train/README"):
        (tmp_path / name).write_text("hello")
    photo(1).save(tmp_path / "train/cat/bare", "PNG")
    photo(2).save(tmp_path / "train/direct.png")
    dataset = loaded(tmp_path)
    assert dataset.notes.skipped == {
        ".txt files": 2, ".csv files": 1, "files without a suffix": 2, "images outside of the folders of classes": 1,
    }  # fmt: skip
    assert (
        f"imagefolder: 2 left out: .txt files, such as {tmp_path / 'train/cat/a.txt'}" in capsys.readouterr().err.splitlines()
    )
    assert [line.split(", such")[0] for line in dataset.notes.warnings] == [
        "2 left out: files without a suffix",
        "1 left out: images outside of the folders of classes",
    ]


def test_all_files_that_cannot_be_read_are_told_at_once(tmp_path: Path) -> None:
    photos(tmp_path)
    whole = {name: tmp_path / name for name in ("train/cat/01.png", "train/dog/04.png", "test/cat/07.png")}
    for path in whole.values():
        path.write_bytes(path.read_bytes()[:300])  # cut behind the header
    refused(tmp_path, "3 image files cannot be read: ", *map(str, whole.values()), "replace or remove them")
    for path, content in zip(
        whole.values(),
        (b"<!DOCTYPE html>", b"version https://git-lfs.github.com/spec/v1\n", b"\0\0\0\x18ftypheicmif1"),
        strict=True,
    ):
        path.write_bytes(content)
    refused(tmp_path, "3 image files", "it is a web page", "run `git lfs pull`", "it is HEIC under another name")
    for path in (tmp_path / "train/dog").iterdir():
        path.write_bytes(b"")
    refused(tmp_path, "12 image files", "(it is empty)", "and 2 more")


def test_empty_classes_are_told_at_once_with_what_lies_there(tmp_path: Path) -> None:
    photos(tmp_path, classes=("cat", "dog", "bird"))
    for name in ("train/cat", "test/dog"):
        for file in (tmp_path / name).iterdir():
            file.rename(file.with_suffix(".heic"))
    refused(tmp_path, "no images in train/cat, test/dog", "20 left out: HEIC photos (.heic)")


# Classes


def test_numbers_are_in_the_order_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(str(n) for n in range(12))
    assert loaded(photos(tmp_path / "one", classes=names)).names.tolist() == list(names)
    assert "in the order of numbers (0, 1, 2, 3, 4 and 7 more); `classes` sets another" in capsys.readouterr().err
    assert loaded(photos(tmp_path / "two", classes=("10", "9", "a"))).names.tolist() == ["10", "9", "a"]
    assert loaded(photos(tmp_path / "three", classes=("007", "01", "3"))).names.tolist() == ["01", "3", "007"]


def test_classes_set_the_order_and_the_labels(tmp_path: Path) -> None:
    photos(tmp_path / "named", ("train", "val", "test"), ("ant", "bee", "cow"))
    plain = loaded(tmp_path / "named")
    turned = loaded(tmp_path / "named", classes=["cow", "ant", "bee"])
    assert turned.names.tolist() == ["cow", "ant", "bee"]
    for name in turned.names:
        here, there = (d.labels == d.names.tolist().index(name) for d in (turned, plain))
        np.testing.assert_array_equal(turned.images[here], plain.images[there])
    photos(tmp_path / "numbers", ("train", "val", "test"), ("0", "1", "2"))
    assert loaded(tmp_path / "numbers", classes=[2, 0, 1]).names.tolist() == ["2", "0", "1"]


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["cat"], "class 'dog' has no line in it"),
        (["cat", "dog", "cow", "bat"], "classes 'bat', 'cow' have no folder in"),
        (["cat", "dogs"], "class 'dog' has no line in it (is 'dog' 'dogs'?)"),
        (["Cat", "dog"], "('cat' and 'Cat' differ in case only)"),
        (["cat", "dog", "cat"], "source.classes: cat: listed twice"),
        (["cat", True], "source.classes: True: no names; put them in quotes"),
    ],
)
def test_classes_are_checked_both_ways(tmp_path: Path, classes: list[Any], said: str) -> None:
    refused(photos(tmp_path), said, classes=classes)


def test_a_name_in_two_forms_of_unicode_is_one_class(tmp_path: Path) -> None:
    photos(tmp_path, ("train",), ("caf\u00e9", "th\u00e9"))
    photos(tmp_path, ("test",), ("cafe\u0301", "the\u0301"))
    assert loaded(tmp_path).names.tolist() == ["caf\u00e9", "th\u00e9"]
    photos(tmp_path, ("train",), ("cafe\u0301",))  # both forms in one split: one class
    assert np.bincount(loaded(tmp_path).labels).tolist() == [30, 20]


def test_splits_of_different_classes_are_told_at_once(tmp_path: Path) -> None:
    photos(tmp_path, ("train",), ("Cat", "dog", "one", "two"))
    photos(tmp_path, ("test",), ("cat", "dog", "three"))
    refused(
        tmp_path,
        "classes 'Cat', 'one', 'two' have no folder in test ('Cat' and 'cat' differ in case only)",
        "classes 'cat', 'three' have no folder in train",
    )


def test_classes_that_differ_in_case_only_are_told(tmp_path: Path) -> None:
    photos(tmp_path, ("train", "val", "test"), ("Cat", "cat", "dog"))
    assert loaded(tmp_path).notes.warnings == ("the classes 'Cat', 'cat' differ in case or spaces only",)


def test_too_few_images_name_the_class_and_what_works(tmp_path: Path) -> None:
    few = photos(tmp_path / "few", classes=tuple(f"class{n}" for n in range(10)), count=4)
    refused(few, "cannot hold val=0.1 of 40 training images out", "'class0', has 4", "the least that works is val: 10")
    assert sizes(loaded(few, val=10)) == [30, 10, 40]
    for file in list((few / "train/class3").iterdir())[1:]:
        file.unlink()
    refused(few, "class 'class3' has 1 image, and both parts need one")
    flat = photos(tmp_path / "flat", ("",), tuple(f"class{n}" for n in range(10)), count=2)
    refused(flat, "cannot hold test=0.2 of 20 training images out", "the least that works is test: 10")


# Pixels


def grey16(values: Any) -> Image.Image:
    return Image.fromarray(np.asarray(values, np.uint16))


def deep_folder(folder: Path, brightest: float, kind: type = np.uint16, suffix: str = "png") -> Path:
    """Images with deep pixels, of which only one, a test image, holds the brightest value."""
    random = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            (folder / split / name).mkdir(parents=True)
            for i in range(10):
                values = random.uniform(0, brightest / 3, (8, 8)).astype(kind)
                if (split, name, i) == ("test", "dog", 9):
                    values[0, 0] = brightest
                Image.fromarray(values).save(folder / split / name / f"{i}.{suffix}")
    return folder


@pytest.mark.parametrize(("brightest", "white"), [(200, 255), (1000, 1023), (4095, 4095), (2100, 4095), (16000, 16383)])
def test_what_is_white_in_deep_pixels_is_measured_over_all_files(tmp_path: Path, brightest: int, white: int) -> None:
    dataset = loaded(deep_folder(tmp_path, brightest), grey=True)
    assert dataset.images[-1, 0, 0, 0] == round(brightest * 255 / white)
    with Image.open(tmp_path / "train/cat/3.png") as image:
        np.testing.assert_array_equal(dataset.images[3, ..., 0], np.rint(np.asarray(image) * (255 / white)))
    assert f" to {brightest}: white is taken to be {white}" in dataset.notes.warnings[0]
    # A cascade reads single pictures with the same white, which none of them shows.
    picture = pictures.like(dataset.images.shape[1:], {}, audit(dataset)["whites"])
    again = [pictures.read(tmp_path / "train/cat" / f"{number}.png", picture) for number in range(10)]
    np.testing.assert_array_equal(np.stack(again), dataset.images[:10])


def test_sixteen_bits_that_are_used_need_no_word(tmp_path: Path) -> None:
    dataset = loaded(deep_folder(tmp_path, 60000), grey=True)
    assert dataset.notes.warnings == () and dataset.images[-1, 0, 0, 0] == round(60000 * 255 / 65535)


def test_dark_deep_pixels_are_told_and_white_sets_theirs(tmp_path: Path) -> None:
    dataset = loaded(deep_folder(tmp_path, 20000), grey=True)
    assert "white is taken to be 65535, and they are dark; `white` sets another" in dataset.notes.warnings[0]
    dataset = loaded(tmp_path, grey=True, white=20000)
    assert dataset.images.max() == 255 and dataset.notes.warnings == ()
    refused(tmp_path, "60 image files", "do not fit 0 to 4095; set `white`", white=4095)


def test_fractions_are_taken_where_white_is_certain(tmp_path: Path) -> None:
    dataset = loaded(deep_folder(tmp_path / "one", 0.9, np.float32, "tif"), grey=True)
    assert dataset.images.max() == 229 and "white is taken to be 1;" in dataset.notes.warnings[0]
    unclear = deep_folder(tmp_path / "two", 40.0, np.float32, "tif")
    refused(unclear, "which says nothing of what is white; set `white`")
    assert loaded(unclear, grey=True, white=40).images.max() == 255
    below = deep_folder(tmp_path / "three", 0.9, np.float32, "tif")
    Image.fromarray(np.full((8, 8), -1, np.float32)).save(below / "train/cat/0.tif")
    refused(below, "run from -1 to 0.9, and nothing is darker than 0")
    Image.fromarray(np.full((8, 8), np.nan, np.float32)).save(below / "train/cat/0.tif")
    refused(below, "train/cat/0.tif: holds values that are not finite")


def test_whole_numbers_of_more_than_16_bits_need_a_white(tmp_path: Path) -> None:
    deep = deep_folder(tmp_path, 100_000, np.int32, "tif")
    refused(deep, "to 100000, which no usual white fits; set `white`")
    assert loaded(deep, grey=True, white=100_000).images.max() == 255


def test_twelve_bits_in_colour_are_told(tmp_path: Path) -> None:
    """Pillow keeps the upper half of 16 bits a channel; a PNG of that kind, written by hand."""
    import struct
    import zlib

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    photos(tmp_path)
    rows = b"".join(b"\0" + np.full((4, 3), 4095, ">u2").tobytes() for _ in range(4))
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0))
    (tmp_path / "train/cat/deep.png").write_bytes(png + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    dataset = loaded(tmp_path, val=2)
    assert (
        "16 bits a channel in colour, of which the upper 8 are read, so that values of 12 bits turn black: 1 of 41 files"
        in dataset.notes.warnings[0]
    )
    assert dataset.images[dataset.notes.files.index("train/cat/deep.png")].max() == 15


def test_several_frames_are_told(tmp_path: Path) -> None:
    photos(tmp_path)
    photo(1).save(tmp_path / "train/cat/moving.gif", save_all=True, append_images=[photo(2)])
    photo(1).save(tmp_path / "train/cat/pages.tif", save_all=True, append_images=[photo(2)])
    photo(3).save(tmp_path / "train/cat/still.gif")
    assert loaded(tmp_path, val=2).notes.warnings == (
        f"several images in a file, of which the first is taken: 2 of 43 files, such as {tmp_path / 'train/cat/moving.gif'}",
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_turned_tiffs_are_not_scrambled(tmp_path: Path, mode: str, compression: str | None) -> None:
    pixels = np.add.outer(np.arange(30), 3 * np.arange(50)).astype(np.uint8)
    image = grey16(pixels.astype(np.uint16) * 257) if mode == "I;16" else Image.fromarray(pixels).convert(mode)
    exif = Image.Exif()
    exif[_decoding.ORIENTATION] = 6
    image.save(tmp_path / "turned.tif", exif=exif, compression=compression)
    found = _decoding.decode(tmp_path / "turned.tif", "mine", 30, "crop", grey=True)[..., 0]
    np.testing.assert_array_equal(found, pixels.T[:, ::-1][10:40])


# Sizes and memory


def test_all_images_that_are_too_large_are_told_before_one_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos(tmp_path)
    for name in ("train/cat/04.png", "test/dog/07.png"):
        Image.new("1", (400, 300)).save(tmp_path / name)
    monkeypatch.setattr(imagefolder, "decode", None)
    refused(
        tmp_path, "2 of 40 images have more than max_pixels = 100000 pixels", "train/cat/04.png (400×300)", "test/dog/07.png (400×300)",
        "or set `max_pixels` to 120000", max_pixels=100_000,
    )  # fmt: skip


def test_pillows_own_limit_is_off_only_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert sizes(loaded(photos(tmp_path), val=2)) == [18, 2, 20] and Image.MAX_IMAGE_PIXELS == 100


def test_the_limit_on_pixels_comes_back_with_the_last_of_several_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that began ends before the second, and the second before a third that began in between."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    first, second, third = any_size(), any_size(), any_size()
    for begins, ends in ((first, None), (second, None), (None, first), (third, None), (None, second), (None, third)):
        if begins:
            begins.__enter__()
        if ends:
            assert Image.MAX_IMAGE_PIXELS is None
            ends.__exit__(None, None, None)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16", "CMYK"])
@pytest.mark.parametrize("fit", ["crop", "stretch"])
def test_large_images_are_made_smaller_in_strips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, fit: str) -> None:
    y, x = np.mgrid[0:303, 0:407]
    smooth = np.stack([x * 255 // 406, y * 255 // 302, (x + y) * 255 // 708, 255 - x * 255 // 406], -1).astype(np.uint8)
    image = Image.fromarray(smooth[..., :3] if mode != "RGBA" else smooth)
    image = grey16(smooth[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    exif = Image.Exif()
    exif[_decoding.ORIENTATION] = 6
    image.save(tmp_path / "image.tif", exif=exif)
    whole = _decoding.decode(tmp_path / "image.tif", "mine", 16, fit)
    monkeypatch.setattr(_decoding, "LARGE", 1000)
    monkeypatch.setattr(_decoding, "STRIP", 5000)
    strips = _decoding.decode(tmp_path / "image.tif", "mine", 16, fit)
    assert np.abs(whole.astype(int) - strips).max() <= (60 if mode in ("1", "P") else 6)
    assert np.abs(whole.astype(int) - strips).mean() <= (12 if mode in ("1", "P") else 3)


def test_memory_is_announced_and_compared_with_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photos(tmp_path)
    loaded(tmp_path, val=2, size=100)
    assert "imagefolder: 40 images of 100×100×3 take 1.2 MB of memory, of " in capsys.readouterr().err
    monkeypatch.setattr(_memory, "available", lambda: 1_000_000)
    refused(tmp_path, "40 images of 100×100×3 take 1.2 MB of memory, more than there is; lower `size`", size=100)
    monkeypatch.setattr(_memory, "available", lambda: None)
    assert sizes(loaded(tmp_path, val=2, size=100)) == [18, 2, 20]


def test_a_limit_of_memory_is_one_line(tmp_path: Path) -> None:
    """With a real limit on the address space."""
    photos(tmp_path)
    code = "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9,) * 2); from calex.__main__ import main; sys.exit(main())"
    source = f'{{"name":"imagefolder","folder":"{tmp_path}","size":5000}}'
    command = [
        sys.executable,
        "-c",
        code,
        "prepare-dataset",
        "--source",
        source,
        "--resources",
        ".",
        "--out",
        str(tmp_path / "i.npz"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "40 images of 5000×5000×3 take 3.0 GB of memory, more than there is; lower `size`" in done.stderr.splitlines()[-1]
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_memory_for_one_image_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any, **__: Any) -> None:
        raise MemoryError

    buffer = io.BytesIO()
    photo(1).save(buffer, "PNG")
    monkeypatch.setattr(_decoding, "to_8_bits", none)
    with pytest.raises(CalexError, match="mine: not enough memory to decode it; lower `max_pixels`"):
        _decoding.decode(buffer, "mine")


def test_what_a_job_asks_for_follows_from_what_is_declared(tmp_path: Path) -> None:
    from calex import datasets

    def asked(**options: Any) -> int:
        return datasets.memory_mb(plugins.complete("datasets", {"name": "imagefolder", **options}, "source"))

    photos(tmp_path, count=50)
    few, many = asked(folder=str(tmp_path), size=64), asked(folder=str(tmp_path), size=2000)
    assert many - few == pytest.approx(200 * (2000**2 - 64**2) * 3 * 1.05 / 1e6, abs=1)
    assert asked(folder=str(tmp_path), size=2000, grey=True) < many
    assert asked(folder=str(tmp_path), max_pixels=10_000_000) < few
    assert asked(folder=str(tmp_path / "nowhere")) < few
    (tmp_path / "linked").mkdir()
    for split in ("train", "test"):
        (tmp_path / "linked" / split).symlink_to(tmp_path / split)
        (tmp_path / split / "loop").symlink_to(tmp_path)
    assert asked(folder=str(tmp_path / "linked"), size=2000) == many
    for name in plugins.names("datasets"):
        assert datasets.memory_mb(plugins.complete("datasets", {"name": name}, "source")) >= 1000
