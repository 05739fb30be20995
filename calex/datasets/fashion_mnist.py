"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 70,000 grey images of clothes, 28×28, 10,000 of them for testing."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from calex.datasets._archives import existing_path
from calex.datasets._downloads import fetch
from calex.datasets._official_split import joined
from calex.errors import CalexError
from calex.images import Images

# folder: where the four IDX files are, with or without .gz; None takes those of Debian's package
# dataset-fashion-mnist where it is installed and downloads them otherwise. val: how many training images are held out
# for validation, in proportion to classes. split_seed: which fixed split.
OPTIONS = {"folder": None, "val": 5000, "split_seed": 0}
PATHS = ["folder"]
RANGES = {"val": "[1, inf)", "split_seed": "[0, 4294967295]"}
MEMORY_MB = 1000  # that decoding takes at its peak

PACKAGED = Path("/usr/share/datasets/fashion-mnist")
NAMES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
ADDRESSES = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
)
# MD5 of each file's .gz as published.
FILES = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}


def load(resources: Path, folder: str | None, val: int, split_seed: int) -> Images:
    """Load the official train images, less `val` of them, and the official test images."""
    paths = files(resources, folder)
    train, test = (
        part(paths[f"{which}-images-idx3-ubyte"], paths[f"{which}-labels-idx1-ubyte"]) for which in ("train", "t10k")
    )
    return joined([train], test, np.array(NAMES), val, split_seed, "fashion_mnist")


def files(resources: Path, folder: str | None) -> dict[str, Path]:
    """Find each file: in `folder`, in Debian's package, or downloaded."""
    if folder is None and not PACKAGED.is_dir():
        return {
            name: fetch(tuple(f"{address}{name}.gz" for address in ADDRESSES), resources / f"{name}.gz", checksum)
            for name, checksum in FILES.items()
        }
    place = PACKAGED if folder is None else existing_path(folder)
    found = {name: path for name in FILES for path in (place / name, place / f"{name}.gz") if path.is_file()}
    missing = [name for name in FILES if name not in found]
    if missing:
        raise CalexError(f"{place}: incomplete, there is no file '{missing[0]}' (or .gz); correct `folder`")
    return found


def part(images: Path, labels: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read (n, H, W, 1) uint8 images and (n,) int64 labels from a pair of files."""
    pixels, classes = idx(images, 3), idx(labels, 1)
    if len(pixels) != len(classes):
        raise CalexError(f"{labels}: {len(classes)} labels for {len(pixels)} images in {images.name}; get both again")
    outside = np.flatnonzero(classes >= len(NAMES))
    if outside.size:
        raise CalexError(f"{labels}: image {outside[0]} has label {classes[outside[0]]}, outside 0..{len(NAMES) - 1}")
    return pixels[..., None], classes.astype(np.int64)


def idx(path: Path, dimensions: int) -> np.ndarray:
    """Read an IDX file of bytes: two zeros, the type (8), the number of dimensions, their sizes (big-endian), the values."""
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CalexError(f"{path}: not a complete .gz file ({error}); download it again") from None
    start = 4 + 4 * dimensions
    if len(data) < start or data[:4] != bytes([0, 0, 8, dimensions]):
        raise CalexError(f"{path}: not an IDX file of bytes in {dimensions} dimensions; get it again")
    shape = tuple(np.frombuffer(data, ">u4", dimensions, offset=4).tolist())
    if len(data) - start != math.prod(shape):
        raise CalexError(f"{path}: {len(data) - start} bytes of values for {' × '.join(map(str, shape))}; get it again")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
