"""CINIC-10 (Darlow et al. 2018, arXiv 1810.03505): 270,000 photographs of 32×32 in CIFAR-10's classes, from ImageNet and CIFAR-10.

It brings its own split into three equal parts. The archive is read twice, once for its names, so that images can be
decoded straight to where they belong: the result is in memory once, and their order is that of the sorted names
whether they come from the archive or from a folder.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from calex.datasets._archives import Archive, contents, find, listing
from calex.datasets._decoding import decode
from calex.datasets._filling import fill
from calex.datasets._memory import allocate
from calex.errors import CalexError
from calex.images import SPLITS, Images, Notes
from calex.system.progress import say

# folder: where the archive or its files are; None downloads it. md5: of an archive of your own, if it
# is not the published one. per_class: how many images each class must have in
# each of the three parts; the official number is a check that nothing is missing.
OPTIONS = {"folder": None, "md5": None, "per_class": 9000}
PATHS = ["folder"]
RANGES = {"per_class": "[1, inf)"}
MEMORY_MB = 2000  # that decoding takes at its peak

SIDE = 32
FOLDERS = {"train": "train", "val": "valid", "test": "test"}
NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

ARCHIVE = Archive(
    file="CINIC-10.tar.gz",
    root="CINIC-10",
    md5="6ee4d0c996905fe93221de577967a372",
    urls=(
        "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz",
        "https://datashare.ed.ac.uk/server/api/core/bitstreams/e8e186cc-2688-48f1-aa5a-3fda1a43f8b6/content",
    ),
)


def load(resources: Path, folder: str | None, md5: str | None, per_class: int) -> Images:
    """Load the official train, valid and test images."""
    place = find(ARCHIVE, resources, folder, FOLDERS["train"], md5)
    say(f"cinic10: reading the names in {place}")
    members: dict[tuple[str, str], list[str]] = {(part, name): [] for part in FOLDERS.values() for name in NAMES}
    for path in listing(place, ARCHIVE.root):
        parts = path.split("/")
        if len(parts) == 3 and parts[0] in FOLDERS.values() and not parts[2].startswith("."):
            if (parts[0], parts[1]) not in members:
                raise CalexError(
                    f"{place}: unexpected class folder '{parts[0]}/{parts[1]}'; the classes are {', '.join(NAMES)}"
                )
            members[parts[0], parts[1]].append(path)
    for (part, name), paths in members.items():
        if len(paths) != per_class:
            raise CalexError(
                f"{place}: {part}/{name} holds {len(paths)} images, expected {per_class}; get the archive again, or set"
                " `per_class` for a set of your own"
            )
    positions = {path: position for position, path in enumerate(path for paths in members.values() for path in paths)}
    pixels = allocate((len(positions), SIDE, SIDE, 3), "cinic10", "take a machine with more")
    sources = ((positions[path], (path, data)) for path, data in contents(place, ARCHIVE.root, positions))
    fill(pixels, sources, lambda source: decode(io.BytesIO(source[1]), f"{place}: {source[0]}", SIDE), "cinic10")
    return Images(
        images=pixels,
        labels=np.tile(np.repeat(np.arange(len(NAMES)), per_class), len(SPLITS)),
        split=np.repeat(np.arange(len(SPLITS), dtype=np.uint8), len(NAMES) * per_class),
        names=np.array(NAMES),
        notes=Notes(files=tuple(positions)),
    )
