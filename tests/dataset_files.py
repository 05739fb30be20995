"""Small datasets in exactly the published formats: CIFAR's Python 2 pickles, CINIC-10's folders, IDX files, image folders.

Each maker returns the folder that a config gives as `folder:`. Every class has its own colour, so that networks can
learn them: `{name: cifar100, folder: …, val: 100}`, `{name: cinic10, folder: …, per_class: 10}`.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from calex.datasets import cinic10, fashion_mnist

# CIFAR-100's 20 superclasses, in the order of their numbers.
SUPERCLASSES = [
    "aquatic_mammals", "fish", "flowers", "food_containers", "fruit_and_vegetables", "household_electrical_devices",
    "household_furniture", "insects", "large_carnivores", "large_man-made_outdoor_things", "large_natural_outdoor_scenes",
    "large_omnivores_and_herbivores", "medium_mammals", "non-insect_invertebrates", "people", "reptiles", "small_mammals",
    "trees", "vehicles_1", "vehicles_2",
]  # fmt: skip


def coloured(labels: np.ndarray, classes: int, side: int = 32, seed: int = 0) -> np.ndarray:
    """(N, side, side, 3) uint8: a colour of the class's own, a stripe of it, and noise."""
    random = np.random.default_rng(seed)
    colours = np.random.default_rng(99).integers(0, 200, (classes, 3))
    pixels = colours[labels][:, None, None, :] + random.integers(0, 40, (len(labels), side, side, 3))
    pixels[:, :, side // 2] += labels[:, None, None] * 15 // classes
    return pixels.astype(np.uint8)


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]
    """Writes as Python 2 did: protocol 2, byte strings for all text, NumPy's modules under their old names."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file, protocol=2)

    def save_text(self, value: bytes | str) -> None:
        data = value if isinstance(value, bytes) else value.encode("latin1")
        short = len(data) < 256
        self.write((b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))) + data)
        self.memoize(value)

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(f"c{module}\n{value.__name__}\n".encode())
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_text
    dispatch[type] = dispatch[type(np.zeros)] = dispatch[type(len)] = save_global
    dispatch[type(np._core.multiarray._reconstruct)] = save_global


def python2_pickle(value: Any) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer).dump(value)
    return buffer.getvalue()


def records(images: np.ndarray) -> np.ndarray:
    """(N, 3072) uint8: the red plane, the green, the blue."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(len(images), -1)


def cifar10(folder: Path, train: int = 40, test: int = 30) -> Path:
    """cifar-10-batches-py: five batches of `train` images each, a test batch, the names."""
    root = folder / "cifar-10-batches-py"
    root.mkdir(parents=True)
    for seed, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        labels = np.arange(test if name == "test_batch" else train) % 10
        content = {
            "batch_label": f"synthetic, {name}",
            "labels": labels.tolist(),
            "data": records(coloured(labels, 10, seed=seed)),
            "filenames": [f"{number}.png" for number in range(len(labels))],
        }
        (root / name).write_bytes(python2_pickle(content))
    meta = {"num_cases_per_batch": train, "label_names": cinic10.NAMES, "num_vis": 3072}
    (root / "batches.meta").write_bytes(python2_pickle(meta))
    return folder


def cifar100(folder: Path, train: int = 1000, test: int = 200) -> Path:
    """cifar-100-python: train, test and meta; fine class f belongs to superclass f mod 20."""
    root = folder / "cifar-100-python"
    root.mkdir(parents=True)
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        fine = np.arange(count) % 100
        content = {
            "filenames": [f"{number}.png" for number in range(count)],
            "batch_label": f"{name}ing batch 1 of 1",
            "fine_labels": fine.tolist(),
            "coarse_labels": (fine % 20).tolist(),
            "data": records(coloured(fine % 20, 20, seed=seed)),
        }
        (root / name).write_bytes(python2_pickle(content))
    names = {"fine_label_names": [f"fine_{f}" for f in range(100)], "coarse_label_names": SUPERCLASSES}
    (root / "meta").write_bytes(python2_pickle(names))
    return folder


def cinic(folder: Path, per_class: int = 4) -> Path:
    """train/valid/test folders of ten class folders; some of the PNGs are grey, some have a palette."""
    for seed, part in enumerate(("train", "valid", "test")):
        for label, name in enumerate(cinic10.NAMES):
            (folder / part / name).mkdir(parents=True)
            for number, pixels in enumerate(coloured(np.full(per_class, label), 10, seed=100 * seed + label)):
                image = Image.fromarray(pixels)
                image = (image, image.convert("L"), image.convert("P"), image)[number % 4]
                image.save(folder / part / name / f"n{number:04}.png")
    (folder / "README.md").write_text("synthetic")
    return folder


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.astype(np.uint8).tobytes()


def fashion(folder: Path, train: int = 200, test: int = 50, packed: bool = True) -> Path:
    """The four IDX files, .gz or plain."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", train), ("t10k", test))):
        labels = np.arange(count) % len(fashion_mnist.NAMES)
        for kind, values in (("images-idx3", coloured(labels, 10, 28, seed)[..., 0]), ("labels-idx1", labels)):
            data = idx(values)
            path = folder / f"{name}-{kind}-ubyte{'.gz' if packed else ''}"
            path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    return folder


# Mode and file name of one image of each kind that people have.
KINDS = (
    ("RGB", "photo.jpg"), ("RGB", "photo.png"), ("RGBA", "cut_out.png"), ("L", "scan.png"), ("I;16", "deep.png"), ("P", "drawing.gif"),
    ("L", "scan.jpeg"), ("CMYK", "print.jpg"), ("1", "fax.png"), ("LA", "stamp.png"), ("RGB", "upper.PNG"), ("P", "palette.png"),
)  # fmt: skip


def image_folder(folder: Path, classes: tuple[str, ...] = ("cat", "dog"), parts: tuple[str, ...] = ("train", "test")) -> Path:
    """Twelve images a class and part, in all kinds and many sizes."""
    for seed, part in enumerate(parts):
        for label, name in enumerate(classes):
            (folder / part / name).mkdir(parents=True)
            for number, (mode, file) in enumerate(KINDS):
                pixels = coloured(np.array([label]), len(classes), 40 + 7 * number, seed * 50 + number)[0, : 30 + 9 * number]
                image = Image.fromarray(pixels)
                if mode == "I;16":
                    image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
                image = image if image.mode == mode else image.convert(mode)
                image.save(folder / part / name / f"{number}_{file}")
    return folder


def archived(folder: Path, archive: Path, prefix: str = ".") -> Path:
    """A .tar.gz of what is in a folder, its paths beginning with `prefix`."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder, arcname=prefix)
    return archive
