"""A dataset as this project sees it: decoded images, labels, class names and one fixed split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from calex.errors import CalexError, listed
from calex.system.files import canonical_json, read_npz, sha256, write_npz

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Notes:
    """What a source reports beside its arrays, for people; nothing that is computed depends on it.

    Attributes
    ----------
    files : tuple of str
        The name of each image's file; empty where images have none.
    skipped : mapping of str to int
        How many files were left out, by reason.
    warnings : tuple of str
        One line for each thing that is probably wrong.
    whites : mapping of str to float
        The value that was taken for white in images of more than 8 bits, by the kind of their pixels; empty where images are no
        files. Pictures are read with it later.
    """

    files: tuple[str, ...] = ()
    skipped: Mapping[str, int] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    whites: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Images:
    """N images of one size in C classes, with a fixed split.

    Attributes
    ----------
    images : (N, H, W, 1) or (N, H, W, 3) uint8
        Grey or RGB pixels.
    labels : (N,) int64
        The class of each image, in [0, C).
    split : (N,) uint8
        The position in `SPLITS` of the split that each image belongs to.
    names : (C,) str
        The classes' names.
    notes : Notes
        What the source reports beside them; in no file and no fingerprint.
    """

    images: np.ndarray
    labels: np.ndarray
    split: np.ndarray
    names: np.ndarray
    notes: Notes = field(default_factory=Notes)

    @property
    def fingerprint(self) -> str:
        """The sha256 of all that a result can depend on: pixels, labels, names and the split."""
        header = canonical_json({"shape": self.images.shape, "names": self.names.tolist()}).encode()
        return sha256(header, self.images, self.labels, self.split)

    def of(self, positions: np.ndarray) -> Selection:
        """Return the images at some positions (n,) int64."""
        return Selection(self.images, positions)

    def indices(self, split: str) -> np.ndarray:
        """Return the positions (n,) int64 of a split's images, in the order of their source."""
        return np.flatnonzero(self.split == SPLITS.index(split))


class Selection:
    """Some images of a dataset, in an order of their own, that are read where they are looked at.

    A dataset may be larger than the memory: its pixels are a part of a file, and a copy of a split would not be.
    """

    def __init__(self, images: np.ndarray, positions: np.ndarray) -> None:
        """images: (N, H, W, C) uint8. positions: (n,) int64 of those that are selected."""
        self.images, self.positions = images, positions
        self.shape = (len(positions), *images.shape[1:])

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        """Return some of the selected images, (B, H, W, C) uint8."""
        return self.images[self.positions[index]]


# Each array's type, number of dimensions, and both in words.
_FORMS = (
    ("images", np.uint8, 4, "uint8 (N, H, W, 1 or 3)"),
    ("labels", np.int64, 1, "int64 (N,)"),
    ("split", np.uint8, 1, "uint8 (N,)"),
    ("names", np.str_, 1, "str (classes,)"),
)


def checked(dataset: Images, where: str) -> Images:
    """Return the dataset itself, if it is one; `where` names its source in errors.

    Raises
    ------
    CalexError
        If a type, a shape or a label is wrong, or a class has no image in a split.
    """
    if not isinstance(dataset, Images):
        raise CalexError(f"{where}: load() returned {type(dataset).__name__}, not Images; correct the source")
    for name, kind, dimensions, form in _FORMS:
        array = getattr(dataset, name)
        if not isinstance(array, np.ndarray):
            raise CalexError(f"{where}: {name} must be {form}, got {type(array).__name__}; correct the source")
        if not np.issubdtype(array.dtype, kind) or array.ndim != dimensions:
            raise CalexError(f"{where}: {name} must be {form}, got {array.dtype} {array.shape}; correct the source")
    images, labels, names = dataset.images, dataset.labels, dataset.names.tolist()
    if images.shape[3] not in (1, 3) or min(images.shape) < 1:
        raise CalexError(f"{where}: images must be {_FORMS[0][3]} and not empty, got {images.shape}; correct the source")
    if labels.shape != (len(images),) or dataset.split.shape != labels.shape:
        raise CalexError(f"{where}: {len(images)} images but {len(labels)} labels and {len(dataset.split)} split entries")
    classes = len(names)
    if classes < 2:
        raise CalexError(f"{where}: {classes} class names; at least two classes are needed")
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise CalexError(f"{where}: two classes are named '{double}'; give each a name of its own")
    if (dataset.split >= len(SPLITS)).any():
        strange = int(np.argmax(dataset.split >= len(SPLITS)))
        raise CalexError(f"{where}: image {strange} has split {dataset.split[strange]}, not 0 (train), 1 (val) or 2 (test)")
    outside = np.flatnonzero((labels < 0) | (labels >= classes))
    if outside.size:
        first = outside[0]
        raise CalexError(f"{where}: image {first} has label {labels[first]}, outside 0..{classes - 1}; correct the source")
    for split in SPLITS:
        counts = np.bincount(labels[dataset.indices(split)], minlength=classes)
        empty = [f"'{name}'" for name, count in zip(names, counts, strict=True) if count == 0]
        if empty:
            which = f"class {empty[0]} has" if len(empty) == 1 else f"{len(empty)} classes have"
            rest = "" if len(empty) == 1 else f" ({listed(empty)})"
            raise CalexError(f"{where}: {which} no images in {split}{rest}; add some or leave the class out")
    return dataset


def save(path: str | Path, dataset: Images) -> None:
    """Write a dataset's arrays and its fingerprint to an .npz file."""
    arrays = {name: getattr(dataset, name) for name, *_ in _FORMS}
    write_npz(path, {**arrays, "fingerprint": np.array(dataset.fingerprint)})


def load_names(path: str | Path) -> np.ndarray:
    """Read the classes' names (C,) str, without reading the images."""
    return read_npz(path, ["names"])["names"]


def load(path: str | Path) -> Images:
    """Read a dataset that `save` wrote; its pixels stay in the file until they are looked at.

    Raises
    ------
    CalexError
        If the file is damaged, or its content is not what its fingerprint says.
    """
    arrays = read_npz(path, ["images", "labels", "split", "names", "fingerprint"], mapped=["images"])
    fingerprint = str(arrays.pop("fingerprint"))
    dataset = Images(arrays["images"], arrays["labels"], arrays["split"], arrays["names"])
    if dataset.fingerprint != fingerprint:
        raise CalexError(f"{path}: its content does not match its own fingerprint; delete it and rerun prepare-dataset")
    return dataset
