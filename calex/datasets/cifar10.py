"""CIFAR-10 (A. Krizhevsky, 2009): 60,000 colour photographs of 32×32 in ten classes, 10,000 of them for testing."""

from __future__ import annotations

from pathlib import Path

from calex.datasets import _cifar
from calex.datasets._archives import Archive, contents, find
from calex.datasets._official_split import joined
from calex.images import Images

# folder: where the archive or its files are; None downloads it. md5: of an archive of your own, if it
# is not the published one. val: how many training images are held out for
# validation, in proportion to classes. split_seed: which fixed split.
OPTIONS = {"folder": None, "md5": None, "val": 5000, "split_seed": 0}
PATHS = ["folder"]
RANGES = {"val": "[1, inf)", "split_seed": "[0, 4294967295]"}
MEMORY_MB = 1500  # that decoding takes at its peak

ARCHIVE = Archive(
    file="cifar-10-python.tar.gz",
    root="cifar-10-batches-py",
    md5="c58f30108f718f92721af3b95e74349a",
    urls=("https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",),
)
META, TRAIN, TEST = "batches.meta", [f"data_batch_{number}" for number in range(1, 6)], "test_batch"


def load(resources: Path, folder: str | None, md5: str | None, val: int, split_seed: int) -> Images:
    """Load the official train batches, less `val` of their images, and the official test batch."""
    place = find(ARCHIVE, resources, folder, META, md5)
    files = {
        name: _cifar.unpickled(data, f"{place}: {name}") for name, data in contents(place, ARCHIVE.root, [META, *TRAIN, TEST])
    }
    names = _cifar.names(files[META], "label_names", f"{place}: {META}")
    parts = [_cifar.batch(files[name], "labels", len(names), f"{place}: {name}") for name in [*TRAIN, TEST]]
    return joined(parts[:-1], parts[-1], names, val, split_seed, "cifar10")
