"""Emoji of several vendors in their Unicode categories: colour pictures of 64×64 from npm's `emoji-datasource-*` packages.

`npm install --prefix FOLDER emoji-datasource-google emoji-datasource-twitter …` gets them. The vendors' pictures of one emoji
are alike, so all of them are in one split: a branch is judged on emoji that it has not seen. Skin tones are left out, because
they repeat one picture, and so is the category `Component`, which holds five.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from calex.datasets._archives import existing_path
from calex.datasets._decoding import decode
from calex.datasets._filling import THREADS, fill
from calex.datasets._memory import allocate
from calex.errors import CalexError, listed
from calex.images import Images, Notes
from calex.images.splitting import stratified_split

# folder: the one that holds the packages, npm's `node_modules`. vendors: whose pictures. labels: the `category` (9) of an emoji,
# or its `subcategory` (about 100). val, test: shares of the emoji. split_seed: which fixed split.
OPTIONS: dict[str, Any] = {
    "folder": None,
    "vendors": ["google", "twitter", "apple", "facebook"],
    "labels": "category",
    "val": 0.15,
    "test": 0.3,
    "split_seed": 0,
}
PATHS = ["folder"]
CHOICES = {"labels": ["category", "subcategory"]}
RANGES = {"val": "(0, 1)", "test": "(0, 1)", "split_seed": "[0, 4294967295]"}
MEMORY_MB = 1000  # that decoding takes at its peak

SIZE = 64
LABEL = "emoji"
GET = "get it: npm install --prefix FOLDER emoji-datasource-{}, then folder: FOLDER/node_modules"


def load(
    resources: Path, folder: str | None, vendors: list[str], labels: str, val: float, test: float, split_seed: int
) -> Images:
    """Load every emoji that all vendors have, in the order of their code points, vendor after vendor."""
    if not vendors or len(set(vendors)) < len(vendors):
        raise CalexError(f"{LABEL}: vendors: {vendors} is not a list of different vendors")
    if folder is None:
        raise CalexError(f"{LABEL}: no folder; {GET.format(' emoji-datasource-'.join(vendors))}")
    place = existing_path(folder)
    packages = {vendor: place / f"emoji-datasource-{vendor}" for vendor in vendors}
    missing = [vendor for vendor, package in packages.items() if not (package / "emoji.json").is_file()]
    if missing:
        raise CalexError(f"{place}: there is no package of {listed(missing)}; {GET.format(' emoji-datasource-'.join(missing))}")
    entries = [entry for entry in catalogue(packages[vendors[0]] / "emoji.json") if entry["category"] != "Component"]
    paths = {
        vendor: [package / "img" / vendor / str(SIZE) / entry["image"] for entry in entries]
        for vendor, package in packages.items()
    }
    complete = [n for n in range(len(entries)) if all(of_vendor[n].is_file() for of_vendor in paths.values())]
    if not complete:
        raise CalexError(f"{place}: no emoji has a picture of {listed(vendors)}; take the packages of one version")
    keys = [entries[n][labels] for n in complete]
    names = sorted(set(keys))
    classes = np.array([names.index(key) for key in keys], np.int64)
    split = stratified_split(classes, val=val, test=test, seed=split_seed)
    files = [of_vendor[n] for of_vendor in paths.values() for n in complete]
    pixels = allocate((len(files), SIZE, SIZE, 3), LABEL, "take a machine with more")
    fill(pixels, enumerate(files), lambda path: decode(path, str(path), SIZE, "crop", False), LABEL, THREADS)
    skipped = {"not of every vendor": len(entries) - len(complete)} if len(complete) < len(entries) else {}
    notes = Notes(files=tuple(str(path.relative_to(place)) for path in files), skipped=skipped)
    return Images(pixels, np.tile(classes, len(vendors)), np.tile(split, len(vendors)).astype(np.uint8), np.array(names), notes)


def catalogue(path: Path) -> list[dict[str, str]]:
    """Read what emoji there are: `unified` (code points), `image`, `category` and `subcategory` of each, by code points."""
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        wanted = [{key: entry[key] for key in ("unified", "image", "category", "subcategory")} for entry in entries]
    except (ValueError, TypeError, KeyError) as error:
        raise CalexError(
            f"{path}: not the catalogue of an emoji-datasource package ({type(error).__name__}: {error})"
        ) from None
    outside = [entry["image"] for entry in wanted if Path(str(entry["image"])).name != entry["image"]]
    if outside:
        raise CalexError(f"{path}: '{outside[0]}' is not the name of a picture; get the package again")
    return sorted(wanted, key=lambda entry: entry["unified"])
