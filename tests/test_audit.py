"""The audit says what is wrong with images as data: each number against a plain count, each warning against a fault made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_calex

from calex.images import SPLITS, Images, Notes
from calex.images.audit import audit, digests, identical
from calex.system.files import read_json


def noise(train: int = 20, val: int = 10, test: int = 10, classes: int = 2, seed: int = 0) -> Images:
    """So many images a class in each split, no two alike."""
    random = np.random.default_rng(seed)
    labels = np.tile(np.arange(classes), train + val + test)
    return Images(
        images=random.integers(0, 256, (len(labels), 5, 4, 3), dtype=np.uint8),
        labels=labels,
        split=np.repeat(np.arange(3, dtype=np.uint8), [classes * train, classes * val, classes * test]),
        names=np.array([f"class{n}" for n in range(classes)]),
    )


def test_good_images_give_no_warning():
    record = audit(noise())
    assert record["warnings"] == []
    assert record["images"] == 80 and record["shape"] == [5, 4, 3]
    assert record["classes"] == {"class0": [20, 10, 10], "class1": [20, 10, 10]}
    assert record["splits"]["val"] == {
        "images": 20, "majority": {"class": "class0", "images": 10, "share": 0.5}, "fewest": {"class": "class0", "images": 10},
        "brightest": int(noise().images[40:60].max()), "darkest": int(noise().images[40:60].min()), "constant": 0,
    }  # fmt: skip
    assert json.loads(json.dumps(record)) == record == audit(noise())


def test_identical_images_are_those_of_a_plain_loop():
    random = np.random.default_rng(1)
    dataset = noise(seed=1)
    pool = dataset.images[:12]
    pixels = pool[random.integers(0, len(pool), len(dataset.images))]  # everything comes several times
    pixels[::5] = dataset.images[::5]
    dataset = replace(dataset, images=pixels)
    rows = {split: [dataset.images[i].tobytes() for i in dataset.indices(split)] for split in SPLITS}
    found = identical(dataset)
    for held, other in (("test", "train"), ("val", "train"), ("test", "val")):
        assert found[f"{held}_in_{other}"] == sum(row in set(rows[other]) for row in rows[held]) > 0
    for split in SPLITS:
        assert found["repeated"][split] == len(rows[split]) - len(set(rows[split]))
    labels: dict[bytes, set[int]] = {}
    for image, label in zip(dataset.images, dataset.labels, strict=True):
        labels.setdefault(image.tobytes(), set()).add(int(label))
    assert found["contradicting"] == sum(len(labels[image.tobytes()]) > 1 for image in dataset.images) > 0


def test_each_example_is_a_pair_of_equal_images():
    dataset = noise()
    pixels = dataset.images.copy()
    pixels[60:67] = pixels[3:10]  # test images that are train's
    pixels[41] = pixels[0]  # a val image of another class
    pixels[21] = pixels[3]  # train has two of one: the first is named
    dataset = replace(dataset, images=pixels)
    found = identical(dataset)
    assert found["examples"] == {
        "test_in_train": [[f"image {60 + i}", f"image {3 + i}"] for i in range(5)],
        "val_in_train": [["image 41", "image 0"]],
        "contradicting": [["image 41", "image 0"], *([f"image {60 + i}", f"image {3 + i}"] for i in range(4))],
    }
    files = tuple(f"{n}.jpg" for n in range(80))
    assert identical(replace(dataset, notes=Notes(files=files)))["examples"]["val_in_train"] == [["41.jpg", "0.jpg"]]


def test_one_value_makes_another_image():
    images = np.zeros((3, 4, 4, 1), np.uint8)
    images[1, 3, 3] = 1
    first, second, third = digests(images)
    assert first == third != second
    assert digests(images[:, :, ::-1])[0] == digests(np.ascontiguousarray(images[:, :, ::-1]))[0]


def warned(dataset: Images, text: str) -> None:
    assert audit(noise())["warnings"] == []
    assert [line for line in audit(dataset)["warnings"] if text in line], audit(dataset)["warnings"]


def with_pixels(rows: slice | list[int], change) -> Images:
    pixels = noise().images.copy()
    pixels[rows] = change(pixels[rows])
    return replace(noise(), images=pixels)


@pytest.mark.parametrize(
    ("dataset", "text"),
    [
        (with_pixels([60, 61], lambda _: noise().images[:2]), "2 test images are also in train (10.00% of test, such as image 60"),
        (with_pixels([40], lambda _: noise().images[:1]), "1 val image is also in train (5.00% of val, such as image 40 = image 0)"),
        (with_pixels([61], lambda _: noise().images[41:42]), "1 test image is also in val"),
        (with_pixels([1], lambda _: noise().images[:1]), "2 images lie in two classes or more (such as image 1 = image 0)"),
        (with_pixels([2, 4, 6, 8], lambda _: noise().images[[0]]), "train: 4 of 40 images repeat another of train"),
        (with_pixels(slice(None), lambda pixels: pixels >> 4), "test: the brightest pixel of all is 15 of 255"),
        (with_pixels(slice(60, None), lambda pixels: pixels >> 4), "test: the brightest pixel of all is 15 of 255"),
        (with_pixels(slice(40), lambda pixels: pixels | 128), "train: the darkest pixel of all is 128 of 255"),
        (with_pixels([3], lambda pixels: pixels * 0 + 7), "train: 1 of 40 images has one colour all over"),
        (noise(val=4), "val: 2 of 2 classes have fewer than 5 images (class0, class1), the fewest 'class0' with 4"),
        (noise(train=9), "train: 2 of 2 classes have fewer than 10 images"),
        (replace(noise(), notes=Notes(warnings=("from the source",))), "from the source"),
    ],
)  # fmt: skip
def test_each_fault_is_a_warning(dataset, text):
    warned(dataset, text)


def test_imbalance_is_told_with_what_the_majority_would_score():
    dataset = noise(test=100)
    keep = np.ones(len(dataset.labels), bool)
    keep[np.flatnonzero((dataset.split == 2) & (dataset.labels == 1))[5:]] = False
    lean = replace(dataset, images=dataset.images[keep], labels=dataset.labels[keep], split=dataset.split[keep])
    assert audit(lean)["splits"]["test"]["majority"] == {"class": "class0", "images": 100, "share": 100 / 105}
    warned(lean, "always answering 'class0' has accuracy 95.2% and balanced accuracy 50.0%")


def test_a_tenfold_class_is_an_imbalance_where_no_class_has_the_majority():
    dataset = noise(train=100, classes=20)
    keep = (dataset.split > 0) | (dataset.labels > 0)
    keep[np.flatnonzero((dataset.split == 0) & (dataset.labels == 0))[:10]] = True
    lean = replace(dataset, images=dataset.images[keep], labels=dataset.labels[keep], split=dataset.split[keep])
    warned(lean, "train: classes are imbalanced, 'class1' has 100 images and 'class0' 10")


def test_the_audit_stands_beside_the_images_and_its_warnings_in_the_log(tmp_path: Path) -> None:
    source = '{"name":"digits","val":20,"test":400}'
    made = []
    for out in (tmp_path / "one/images.npz", tmp_path / "two/images.npz"):
        done = run_calex("prepare-dataset", "--source", source, "--resources", tmp_path, "--out", out)
        assert done.returncode == 0, done.stderr
        made.append(out.with_suffix(".json").read_bytes())
    assert made[0] == made[1]
    record = read_json(tmp_path / "one/images.json")
    assert record["splits"]["val"]["images"] == 20 and len(record["warnings"]) == 1
    assert f"warning: {record['warnings'][0]}" in done.stderr.splitlines()
    assert record["warnings"][0].startswith("val: 10 of 10 classes have fewer than 5 images (0, 1, 2, 3, 4 and 5 more)")
