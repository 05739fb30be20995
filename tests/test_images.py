"""Datasets: one fixed split in proportion, a fingerprint of everything that matters, and errors that name the fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from calex.errors import CalexError
from calex.images import SPLITS, Images, checked, load, load_names, save
from calex.images.splitting import stratified_split
from calex.plugins import complete, options_of
from calex.plugins import load as plugin


def digits(**options: int) -> Images:
    return plugin("datasets", "digits").load(
        Path(), **options_of(complete("datasets", {"name": "digits", **options}, "source"))
    )


def small() -> Images:
    """Two classes, nine images of 2×2, each class in each split."""
    return Images(
        images=np.arange(36, dtype=np.uint8).reshape(9, 2, 2, 1),
        labels=np.array([0, 1, 0, 1, 0, 1, 0, 0, 1]),
        split=np.array([0, 0, 1, 1, 2, 2, 0, 0, 0], np.uint8),
        names=np.array(["cat", "dög"]),
    )


def counts(labels: np.ndarray, split: np.ndarray, classes: int) -> np.ndarray:
    return np.stack([np.bincount(labels[split == position], minlength=classes) for position in range(len(SPLITS))])


def test_digits_are_the_real_images_in_a_fixed_split():
    dataset = checked(digits(), "digits")
    assert dataset.images.shape == (1797, 8, 8, 1) and dataset.images.dtype == np.uint8
    assert [len(dataset.indices(split)) for split in SPLITS] == [1000, 397, 400]
    assert dataset.names.tolist() == list("0123456789")
    assert dataset.images.min() == 0 and dataset.images.max() == 255  # ink from 0 to 16, stretched
    assert dataset.fingerprint == digits().fingerprint
    assert dataset.fingerprint != digits(split_seed=1).fingerprint


def test_every_digit_is_in_proportion_in_every_split():
    dataset = digits()
    found = counts(dataset.labels, dataset.split, 10)
    expected = np.outer([1000, 397, 400], np.bincount(dataset.labels)) / 1797
    assert np.abs(found - expected).max() < 1.5


@examples(50)
@given(st.lists(st.integers(8, 40), min_size=2, max_size=5), st.integers(0, 1000), st.integers(10, 15), st.integers(10, 15))
def test_a_split_has_the_sizes_asked_for_and_every_class_in_proportion(sizes, seed, val, test):
    if sum(sizes) < val + test + 10:
        sizes = [size + 10 for size in sizes]
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))
    split = stratified_split(labels, val, test, seed)
    wanted = [len(labels) - val - test, val, test]
    assert split.dtype == np.uint8 and np.bincount(split, minlength=3).tolist() == wanted
    expected = np.outer(wanted, sizes) / len(labels)
    assert np.abs(counts(labels, split, len(sizes)) - expected).max() < 2
    np.testing.assert_array_equal(split, stratified_split(labels, val, test, seed))


def test_sizes_may_be_shares_of_all_images():
    labels = np.repeat([0, 1], 100)
    assert np.bincount(stratified_split(labels, 0.2, 0.1)).tolist() == [140, 40, 20]
    assert counts(labels, stratified_split(labels, 0.2, 0.1), 2).tolist() == [[70, 70], [20, 20], [10, 10]]


def test_another_seed_is_another_split():
    labels = np.repeat([0, 1], 50)
    assert not np.array_equal(stratified_split(labels, 20, 20, 0), stratified_split(labels, 20, 20, 1))


@pytest.mark.parametrize(
    ("labels", "val", "test"),
    [
        ([0, 0, 0, 0, 1], 2, 2),  # one image of a class cannot be in three splits
        ([0, 1] * 5, 2, 20),  # more than there are
        ([0, 1] * 5, 8, 4),
        ([0, 1, 2] * 4, 1, 4),  # fewer than classes
    ],
)
def test_impossible_splits_are_one_line(labels, val, test):
    with pytest.raises(CalexError, match=rf"cannot split {len(labels)} images into val={val} and test={test}") as error:
        stratified_split(np.array(labels), val, test)
    assert "\n" not in str(error.value)


def test_an_impossible_split_says_which_class_and_what_works():
    with pytest.raises(CalexError, match=r"class '1' has 1 image, and both parts need one"):
        stratified_split(np.array([0, 0, 0, 0, 1]), 2, 2)
    with pytest.raises(CalexError, match=r"each of 3 classes .* the smallest, '0', has 2; the least that works is val: 3"):
        stratified_split(np.repeat([0, 1, 2], [3, 5, 5]), 1, 3)
    with pytest.raises(CalexError, match=r"lower test, down to 2 works"):
        stratified_split(np.array([0, 1] * 5), 2, 20)


def test_indices_are_a_partition_in_the_order_of_the_source():
    dataset = small()
    assert [dataset.indices(split).tolist() for split in SPLITS] == [[0, 1, 6, 7, 8], [2, 3], [4, 5]]


def test_datasets_survive_the_file(tmp_path):
    save(tmp_path / "images.npz", small())
    found = load(tmp_path / "images.npz")
    for name in ("images", "labels", "split", "names"):
        np.testing.assert_array_equal(getattr(found, name), getattr(small(), name), strict=True)
    assert found.fingerprint == small().fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["images.npz"]


def test_the_same_dataset_is_the_same_file(tmp_path):
    for name in ("one.npz", "two.npz"):
        save(tmp_path / name, small())
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()


def changed(name: str) -> Images:
    values = getattr(small(), name).copy()
    values[0] = {"images": 99, "labels": 1, "split": 1, "names": "cow"}[name]
    return replace(small(), **{name: values})


@pytest.mark.parametrize("name", ["images", "labels", "split", "names"])
def test_the_fingerprint_sees_every_part(name):
    assert changed(name).fingerprint != small().fingerprint


def test_the_fingerprint_sees_the_shape():
    assert replace(small(), images=small().images.reshape(9, 1, 4, 1)).fingerprint != small().fingerprint


@pytest.mark.parametrize("name", ["images", "labels", "split", "names"])
def test_a_file_whose_content_was_changed_is_refused(tmp_path, name):
    path = tmp_path / "images.npz"
    np.savez(path, **vars(changed(name)), fingerprint=np.array(small().fingerprint))
    with pytest.raises(CalexError, match=r"images\.npz: its content does not match its own fingerprint"):
        load(path)


def test_files_that_are_no_datasets_are_refused(tmp_path):
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(CalexError, match=r"other\.npz: holds no 'labels'"):
        load(tmp_path / "other.npz")
    save(tmp_path / "cut.npz", small())
    whole = (tmp_path / "cut.npz").read_bytes()
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut.npz").write_bytes(whole[:length])
        with pytest.raises(CalexError, match=r"cut\.npz: damaged"):
            load(tmp_path / "cut.npz")


def test_a_good_dataset_passes():
    dataset = small()
    assert checked(dataset, "mine") is dataset


def with_label(value: int) -> np.ndarray:
    labels = small().labels.copy()
    labels[3] = value
    return labels


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"labels": with_label(2)}, r"mine: image 3 has label 2, outside 0\.\.1"),
        ({"labels": with_label(-1)}, r"mine: image 3 has label -1, outside 0\.\.1"),
        ({"labels": with_label(0)}, r"mine: class 'dög' has no images in val"),
        ({"split": np.array([0, 0, 1, 1, 2, 1, 0, 0, 0], np.uint8)}, "mine: class 'dög' has no images in test"),
        ({"names": np.array(["cat", "dög", "empty"])}, "mine: class 'empty' has no images in train"),
        ({"labels": small().labels[:-1]}, "mine: 9 images but 8 labels and 9 split entries"),
        ({"split": small().split[:-1]}, "mine: 9 images but 9 labels and 8 split entries"),
        ({"images": small().images.astype(np.float32)}, r"mine: images must be uint8 .* float32"),
        ({"images": small().images[..., 0]}, r"mine: images must be uint8 .*\(9, 2, 2\)"),
        ({"images": small().images.repeat(2, axis=3)}, r"mine: images must be uint8 .*\(9, 2, 2, 2\)"),
    ],
)
def test_faults_are_named(fault, said):
    with pytest.raises(CalexError, match=said) as error:
        checked(replace(small(), **fault), "mine")
    assert "\n" not in str(error.value)


def test_a_split_entry_that_is_no_split_is_an_error():
    split = small().split.copy()
    split[6] = 3  # an image that would silently never be used
    with pytest.raises(CalexError, match="split"):
        checked(replace(small(), split=split), "mine")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"images": small().images.tolist()}, r"mine: images must be uint8 .*, got list; correct the source"),
        ({"labels": small().labels.tolist()}, r"mine: labels must be int64 \(N,\), got list"),
        ({"labels": small().labels.astype(np.float64)}, r"mine: labels must be int64 \(N,\), got float64 \(9,\)"),
        ({"labels": small().labels.astype(np.int32)}, r"mine: labels must be int64 \(N,\), got int32 \(9,\)"),
        ({"labels": small().labels[:, None]}, r"mine: labels must be int64 \(N,\), got int64 \(9, 1\)"),
        ({"labels": None}, r"mine: labels must be int64 \(N,\), got NoneType"),
        ({"split": np.array([0, 0, 1, 1, 2, 2, -1, 0, 0])}, r"mine: split must be uint8 \(N,\), got int64 \(9,\)"),
        ({"split": small().split.astype(bool)}, r"mine: split must be uint8 \(N,\), got bool"),
        ({"names": ["cat", "dog"]}, r"mine: names must be str \(classes,\), got list"),
        ({"names": np.array(["cat", "dog"], dtype=object)}, r"mine: names must be str \(classes,\), got object"),
        ({"names": np.array([1, 2])}, r"mine: names must be str \(classes,\), got int64"),
        ({"names": np.array([], dtype=str)}, "mine: 0 class names; at least two classes are needed"),
        ({"names": np.array(["cat"])}, "mine: 1 class names; at least two classes are needed"),
        ({"names": np.array(["cat", "cat"])}, "mine: two classes are named 'cat'; give each a name of its own"),
        ({"images": np.zeros((9, 0, 2, 1), np.uint8)}, r"mine: images must be uint8 .* and not empty, got \(9, 0, 2, 1\)"),
        ({"images": np.zeros((0, 2, 2, 1), np.uint8)}, r"mine: images must be uint8 .* and not empty, got \(0, 2, 2, 1\)"),
    ],
)
def test_a_source_that_returns_the_wrong_things_is_one_line(fault, said):
    with pytest.raises(CalexError, match=said) as error:
        checked(replace(small(), **fault), "mine")
    assert "\n" not in str(error.value)


def test_a_source_must_return_images():
    with pytest.raises(CalexError, match=r"mine: load\(\) returned tuple, not Images"):
        checked((small().images, small().labels), "mine")


def test_names_are_read_without_the_images(tmp_path):
    save(tmp_path / "images.npz", small())
    assert load_names(tmp_path / "images.npz").tolist() == ["cat", "dög"]
    np.savez(tmp_path / "other.npz", images=np.zeros(3))
    with pytest.raises(CalexError, match=r"other\.npz: holds no 'names'"):
        load_names(tmp_path / "other.npz")
