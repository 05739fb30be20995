"""Your own images: train/CLASS/*.jpg, test/CLASS/*.jpg, and val/CLASS/*.jpg if you have it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image

from calex.datasets._archives import existing
from calex.datasets._pictures import THREADS, decoded, fill
from calex.errors import CalexError
from calex.images import SPLITS, Images
from calex.progress import say
from calex.splitting import held_out

# folder: the one that holds train, test and perhaps val. size: side in pixels at which images are stored. fit: `crop`
# takes the middle square of an image, `stretch` all of it. grey: store one channel instead of three. val: without a
# folder val, the share (or number) of train that is held out, in proportion to classes. split_seed: which fixed share.
OPTIONS = {"folder": None, "size": 64, "fit": "crop", "grey": False, "val": 0.1, "split_seed": 0}
RANGES = {"size": "[1, inf)", "val": "(0, inf)", "split_seed": "[0, 4294967295]"}
CHOICES = {"fit": ["crop", "stretch"]}


def load(resources: Path, folder: str | None, size: int, fit: str, grey: bool, val: float, split_seed: int) -> Images:
    """The images below `folder`, whatever their size and kind, in the order of their sorted paths."""
    if folder is None:
        raise CalexError("imagefolder: no folder; set `folder` to the one that holds train/ and test/")
    place = existing(folder)
    for part in ("train", "test"):
        if not (place / part).is_dir():
            raise CalexError(f"{place}: no folder '{part}' in it; put images into {place / part}/CLASS/")
    names = classes(place / "train")
    parts = [part for part in SPLITS if (place / part).is_dir()]
    paths, labels, split = list[Path](), list[int](), list[int]()
    for part in parts:
        strange = sorted(set(names) ^ set(classes(place / part)))
        if strange:
            lacking = part if strange[0] in names else "train"
            raise CalexError(f"{place}: class '{strange[0]}' has no folder in {lacking}; every part needs the same classes")
        for label, name in enumerate(names):
            found = pictures(place / part / name)
            paths += found
            labels += [label] * len(found)
            split += [SPLITS.index(part)] * len(found)
    pixels = np.empty((len(paths), size, size, 1 if grey else 3), np.uint8)
    fill(pixels, enumerate(paths), lambda path: decoded(path, str(path), size, fit, grey), "imagefolder", THREADS)
    where, answers = np.array(split, np.uint8), np.array(labels, np.int64)
    if "val" not in parts:
        train = where == SPLITS.index("train")
        where[train] = held_out(answers[train], val, split_seed)
    return Images(images=pixels, labels=answers, split=where, names=np.array(names))


def classes(folder: Path) -> list[str]:
    """The names of the class folders, sorted."""
    found = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if len(found) < 2:
        raise CalexError(f"{folder}: {len(found)} class folders; at least two are needed, {folder}/CLASS/")
    return found


def pictures(folder: Path) -> list[Path]:
    """Every image file below a class folder, at any depth, sorted; other files are left out, with a word about it."""
    known = Image.registered_extensions()
    files = sorted(Path(at) / file for at, _, found in os.walk(folder, followlinks=True) for file in found if file[0] != ".")
    chosen = [file for file in files if file.suffix.lower() in known]
    if not chosen:
        raise CalexError(f"{folder}: no images in it; add some or remove the class from every part")
    if len(chosen) < len(files):
        other = next(file for file in files if file.suffix.lower() not in known)
        say(f"{folder}: {len(files) - len(chosen)} files are no images and left out ({other.name}, …)")
    return chosen
