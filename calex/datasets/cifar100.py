"""CIFAR-100 (A. Krizhevsky, 2009): 60,000 colour photographs of 32×32 in 100 classes that form 20 superclasses."""

from __future__ import annotations

from pathlib import Path

from calex.datasets import _cifar
from calex.datasets._archives import Archive, contents, find
from calex.datasets._official_split import joined
from calex.images import Images

# labels: the 100 fine ones or the 20 coarse ones. folder: where the archive or its files are; None downloads it.
# val: how many training images are held out for validation, in proportion to classes. split_seed: which fixed split.
OPTIONS = {"labels": "fine", "folder": None, "md5": None, "val": 5000, "split_seed": 0}
PATHS = ["folder"]
RANGES = {"val": "[1, inf)", "split_seed": "[0, 4294967295]"}
MEMORY_MB = 1500  # that decoding takes at its peak
CHOICES = {"labels": ["fine", "coarse"]}

ARCHIVE = Archive(
    file="cifar-100-python.tar.gz",
    root="cifar-100-python",
    md5="eb9058c3a382ffc7106e4002c42a8d85",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",),
)


def load(resources: Path, labels: str, folder: str | None, md5: str | None, val: int, split_seed: int) -> Images:
    """Load the official train file, less `val` of its images, and the official test file."""
    place = find(ARCHIVE, resources, folder, "meta", md5)
    read = contents(place, ARCHIVE.root, ["meta", "train", "test"])
    files = {name: _cifar.unpickled(data, f"{place}: {name}") for name, data in read}
    names = _cifar.names(files["meta"], f"{labels}_label_names", f"{place}: meta")
    train, test = (_cifar.batch(files[name], f"{labels}_labels", len(names), f"{place}: {name}") for name in ("train", "test"))
    return joined([train], test, names, val, split_seed, "cifar100")
