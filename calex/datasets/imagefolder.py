"""Your own images: train/CLASS/*.jpg, test/CLASS/*.jpg and val/CLASS/*.jpg, or CLASS/*.jpg alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from calex.datasets._archives import existing_path
from calex.datasets._classes import order_classes, similar_names
from calex.datasets._decoding import LARGE, any_size, decode
from calex.datasets._filling import THREADS, fill
from calex.datasets._folder import Tree, read_tree
from calex.datasets._headers import check_headers
from calex.datasets._memory import allocate
from calex.errors import CalexError, listed
from calex.images import SPLITS, Images, Notes
from calex.images.splitting import hold_out
from calex.system.progress import say

# folder: the one that holds train and perhaps val and test, or classes. size: side in pixels at which images are stored.
# fit: `crop` takes the middle square of an image, `stretch` all of it. grey: store one channel instead of three. val, test:
# without such a folder, the share (or number) of train that is held out, in proportion to classes. split_seed: which fixed
# share. classes: the order of the classes; none is sorted. white: the value that is white in images of more than 8 bits; 0
# is measured. max_pixels: the largest image that is decoded.
OPTIONS: dict[str, Any] = {
    "folder": None,
    "size": 64,
    "fit": "crop",
    "grey": False,
    "val": 0.1,
    "test": 0.2,
    "split_seed": 0,
    "classes": [],
    "white": 0.0,
    "max_pixels": 200_000_000,
}
PATHS = ["folder"]
RANGES = {
    "size": "[1, inf)",
    "val": "(0, inf)",
    "test": "(0, inf)",
    "split_seed": "[0, 4294967295]",
    "white": "[0, inf)",
    "max_pixels": "[1, inf)",
}
CHOICES = {"fit": ["crop", "stretch"]}

LABEL = "imagefolder"


def load(
    resources: Path,
    folder: str | None,
    size: int,
    fit: str,
    grey: bool,
    val: int | float,
    test: int | float,
    split_seed: int,
    classes: list[Any],
    white: float,
    max_pixels: int,
) -> Images:
    """Load the images below `folder`, whatever their size and kind, in the order of their sorted paths."""
    place = root(folder)
    tree = read_tree(place)
    for line in tree.left_out.lines(warnings=False):
        say(f"{LABEL}: {line}")
    names = order_classes({split: list(classes_of) for split, classes_of in tree.files.items()}, classes, place)
    check_empty(tree, names)
    paths, labels, split = listed_files(tree, names)
    for part, share in (("test", test), ("val", val)):
        if part not in tree.files:
            train = np.flatnonzero(split == SPLITS.index("train"))
            held = hold_out(labels[train], share, split_seed, names, part) == SPLITS.index("val")
            split[train[held]] = SPLITS.index(part)
            say(f"{LABEL}: no folder of {part} images: {part}={share:g} of {len(train)} are held out, split_seed {split_seed}")
    with any_size():
        whites, header_warnings = check_headers(paths, white, max_pixels, LABEL)
        pixels = allocate((len(paths), size, size, 1 if grey else 3), LABEL, "lower `size`, store `grey` images, or take fewer")
        fill(pixels, enumerate(paths), lambda path: decode(path, str(path), size, fit, grey, whites), LABEL, THREADS)
    notes = Notes(
        files=tuple(str(path.relative_to(place)) for path in paths),
        skipped=dict(tree.left_out.counts),
        warnings=(*tree.left_out.lines(warnings=True), *similar_names(names), *header_warnings),
        whites=whites,
    )
    return Images(images=pixels, labels=labels, split=split, names=np.array(names), notes=notes)


def listed_files(tree: Tree, names: list[str]) -> tuple[list[Path], np.ndarray, np.ndarray]:
    """List the files of all splits in order, with their labels (N,) int64 and splits (N,) uint8."""
    paths, labels, split = list[Path](), list[int](), list[int]()
    for part, files in tree.files.items():
        for label, name in enumerate(names):
            paths += files[name]
            labels += [label] * len(files[name])
            split += [SPLITS.index(part)] * len(files[name])
    return paths, np.array(labels, np.int64), np.array(split, np.uint8)


def memory_mb(folder: str | None, size: int, grey: bool, max_pixels: int, **_: Any) -> int:
    """Return what decoding takes at its peak, in MB: the array of all images, those being decoded, and the libraries.

    Files are counted, where the folder is there, without opening them: more images than that there cannot be.
    """
    array = count_files(folder) * size * size * (1 if grey else 3)
    large, small = 5 * max_pixels, 20 * min(max_pixels, LARGE)  # bytes of images being decoded: one large, the others small
    return 500 + round((array * 1.05 + large + (THREADS - 1) * small) / 1e6)


def count_files(folder: str | None) -> int:
    """Count the files below a folder, those behind links too, each folder once; 0 where there is none."""
    count, seen = 0, set[str]()
    for at, below, files in os.walk(Path(folder).expanduser(), followlinks=True) if folder is not None else ():
        real = os.path.realpath(at)
        if real in seen:
            below.clear()
        else:
            seen.add(real)
            count += len(files)
    return count


def root(folder: str | None) -> Path:
    """Return the folder that a config gives; the error says what to do if it is none."""
    if folder is None:
        raise CalexError("imagefolder: no folder; set `folder` to the one that holds train/CLASS/ and test/CLASS/")
    place = existing_path(folder)
    if place.is_dir():
        return place
    suffix = "".join(place.suffixes[-2:]).lower()
    if suffix.endswith(".zip") or ".tar" in suffix or suffix.endswith(".tgz"):
        target = place.with_name(place.name.split(".")[0])
        unpack = "unzip {0} -d {1}" if suffix.endswith(".zip") else "mkdir {1} && tar -xf {0} -C {1}"
        raise CalexError(f"{place}: is an archive; unpack it (`{unpack.format(place, target)}`) and set `folder` to {target}")
    raise CalexError(f"{place}: is a file; set `folder` to the folder that holds train/CLASS/ and test/CLASS/")


def check_empty(tree: Tree, names: list[str]) -> None:
    """Refuse class folders without an image, all at once."""
    empty = [f"{split}/{name}" for split, files in tree.files.items() for name in names if not files[name]]
    if empty:
        left = tree.left_out.lines(warnings=False) + tree.left_out.lines(warnings=True)
        instead = f" ({'; '.join(left)})" if left else ""
        raise CalexError(f"no images in {listed(empty)}{instead}; add some or remove the class from every split")
