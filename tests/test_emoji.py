"""The data set of emoji, from small packages in the form of npm's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calex.datasets import emoji
from calex.errors import CalexError
from calex.images import checked

OPTIONS: dict[str, Any] = {"vendors": ["google", "twitter"], "labels": "category", "val": 0.2, "test": 0.2, "split_seed": 0}


def entry(number: int, category: str, **more: object) -> dict[str, Any]:
    code = f"1F{number:03X}"
    return {"unified": code, "image": f"{code.lower()}.png", "category": category, "subcategory": f"{category} kind"} | more


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    entries = [entry(n, ("Food", "Flags", "Objects")[n % 3], skin_variations={"1F3FB": {}}) for n in range(30)]
    entries += [entry(900, "Component"), entry(901, "Food")]  # the last has no picture of twitter's
    for place, vendor in enumerate(("google", "twitter")):
        folder = tmp_path / f"emoji-datasource-{vendor}" / "img" / vendor / "64"
        folder.mkdir(parents=True)
        (tmp_path / f"emoji-datasource-{vendor}" / "emoji.json").write_text(json.dumps(entries[::-1]))
        for number, one in enumerate(entries[: 32 - place]):
            picture = Image.new("RGBA", (64, 64), (number, 100 * place, 0, 255))
            picture.putpixel((0, 0), (0, 0, 0, 0))  # what is transparent is white
            picture.save(folder / one["image"])
    return tmp_path


def test_every_emoji_of_all_vendors_is_there_once_per_vendor(packages: Path) -> None:
    images = checked(emoji.load(packages, str(packages), **OPTIONS), "emoji")
    assert images.images.shape == (60, 64, 64, 3) and images.names.tolist() == ["Flags", "Food", "Objects"]
    assert images.notes.skipped == {"not of every vendor": 1}
    assert np.array_equal(images.images[:, 1, 1, 0], np.tile(np.arange(30), 2))  # in the order of code points
    assert set(images.images[:30, 1, 1, 1]) == {0} and set(images.images[30:, 1, 1, 1]) == {100}
    assert (images.images[:, 0, 0] == 255).all()
    assert [images.names[label] for label in images.labels[:3]] == ["Food", "Flags", "Objects"]


def test_all_pictures_of_one_emoji_are_in_one_split(packages: Path) -> None:
    images = emoji.load(packages, str(packages), **OPTIONS)
    assert np.array_equal(images.split[:30], images.split[30:])
    assert np.bincount(images.split).tolist() == [36, 12, 12]
    other = emoji.load(packages, str(packages), **OPTIONS | {"split_seed": 1})
    assert not np.array_equal(images.split, other.split)


def test_subcategories(packages: Path) -> None:
    images = emoji.load(packages, str(packages), **OPTIONS | {"labels": "subcategory"})
    assert images.names.tolist() == ["Flags kind", "Food kind", "Objects kind"]


@pytest.mark.parametrize(
    ("folder", "options", "message"),
    [
        (None, {}, r"^emoji: no folder; get it: npm install --prefix FOLDER emoji-datasource-google emoji-datasource-twitter,"),
        ("", {"vendors": ["google", "apple"]}, r"there is no package of apple; get it: npm install"),
        ("", {"vendors": []}, r"^emoji: vendors: \[\] is not a list of different vendors"),
        ("", {"vendors": ["google", "google"]}, r"is not a list of different vendors"),
    ],
)
def test_what_is_missing_is_one_line(packages: Path, folder: str | None, options: dict[str, Any], message: str) -> None:
    with pytest.raises(CalexError, match=message):
        emoji.load(packages, None if folder is None else str(packages), **OPTIONS | options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("<html>", "not the catalogue of an emoji-datasource package"),
        ("[1]", "not the catalogue of an emoji-datasource package"),
        ('[{"unified": "1"}]', "not the catalogue of an emoji-datasource package"),
        (json.dumps([entry(1, "Food", image="../../secret.png")]), "is not the name of a picture"),
    ],
)
def test_a_catalogue_that_is_none_is_one_line(packages: Path, content: str, message: str) -> None:
    (packages / "emoji-datasource-google/emoji.json").write_text(content)
    with pytest.raises(CalexError, match=message):
        emoji.load(packages, str(packages), **OPTIONS)


def test_a_picture_of_another_size_is_refused(packages: Path) -> None:
    path = packages / "emoji-datasource-google/img/google/64/1f000.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(CalexError, match=r"1f000\.png"):
        emoji.load(packages, str(packages), **OPTIONS)
