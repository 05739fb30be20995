"""What a store holds and how many bytes that takes: arithmetic only, no files."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from calex.errors import CalexError, suggestion

CHUNK_BYTES = 16 << 20
CRC_BYTES = 4
PRECISIONS = {"float16": "<f2", "float32": "<f4"}
CODECS = ("none", "lz4", "zstd")

# What is not chunks: a zarr.json is close to this long, and so is a chunk's entry in the manifest.
METADATA_BYTES = 900
ENTRY_BYTES = 170


class Array(NamedTuple):
    """One Zarr array: its shape, the shape of its chunks and its dtype (little-endian)."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[str, ...]

    @property
    def fill(self) -> float | int:
        """What no chunk holds, so that padding is never taken for data."""
        return math.nan if self.dtype.kind == "f" else -1

    @property
    def chunk_bytes(self) -> int:
        """Size of one chunk's values in bytes, uncompressed and without checksum."""
        return math.prod(self.chunk) * self.dtype.itemsize


@dataclass(frozen=True)
class Layout:
    """The shape of a store.

    views      V, augmented views of each image (1 for validation and test)
    images     N
    taps       (C, H, W) of each tap, shallow to deep
    classes    K
    precision  of the taps: float16 or float32 (log-softmaxes are always float32)
    codec      none, lz4 (blosc, bitshuffle) or zstd; crc32c always follows
    rows       images per chunk, the same for every array, so that chunk n of each holds the same images.
               0 stands for the evenest split in which the largest tap's chunks are at most 16 MiB.
    """

    views: int
    images: int
    taps: tuple[tuple[int, int, int], ...]
    classes: int
    precision: str = "float16"
    codec: str = "none"
    rows: int = 0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise CalexError(f"precision: unknown value '{self.precision}', {suggestion(self.precision, PRECISIONS)}")
        if self.codec not in CODECS:
            raise CalexError(f"codec: unknown value '{self.codec}', {suggestion(self.codec, CODECS)}")
        object.__setattr__(self, "taps", tuple(tuple(int(size) for size in shape) for shape in self.taps))
        if min(self.views, self.images, self.classes, *(size for shape in self.taps for size in shape)) < 1 or self.rows < 0:
            raise CalexError(f"a feature store needs at least one view, one image, one class and one value per tap, got {self}")
        if self.rows == 0:
            itemsize = np.dtype(PRECISIONS[self.precision]).itemsize
            largest = max([math.prod(shape) * itemsize for shape in self.taps], default=self.classes * 4)
            chunks = math.ceil(self.images / max(1, CHUNK_BYTES // largest))
            object.__setattr__(self, "rows", math.ceil(self.images / chunks))
        object.__setattr__(self, "rows", min(self.rows, self.images))

    @property
    def chunks(self) -> int:
        """Chunks along N."""
        return math.ceil(self.images / self.rows)

    def bounds(self, chunk: int) -> tuple[int, int]:
        """The first image of a chunk and the one after its last."""
        return chunk * self.rows, min((chunk + 1) * self.rows, self.images)

    def rows_in(self, chunk: int) -> int:
        """Images in a chunk: `rows`, fewer in the last."""
        start, stop = self.bounds(chunk)
        return stop - start

    @property
    def arrays(self) -> dict[str, Array]:
        """Every array of the store by name, in pipeline order."""
        dtype = np.dtype(PRECISIONS[self.precision])
        axes = ("view", "image", "channel", "height", "width")
        arrays = {
            f"tap{k}": Array((self.views, self.images, *shape), (1, self.rows, *shape), dtype, axes)
            for k, shape in enumerate(self.taps)
        }
        softmax = (self.views, self.images, self.classes)
        arrays["log_softmax"] = Array(softmax, (1, self.rows, self.classes), np.dtype("<f4"), ("view", "image", "class"))
        arrays["labels"] = arrays["index"] = Array((self.images,), (self.images,), np.dtype("<i8"), ("image",))
        return arrays

    @property
    def feature_arrays(self) -> dict[str, Array]:
        """The arrays that have a chunk for each view and chunk number: all but `labels` and `index`."""
        return {name: array for name, array in self.arrays.items() if name not in ("labels", "index")}

    def chunk_paths(self) -> list[str]:
        """The path of every chunk inside the store."""
        grid = [(view, chunk) for view in range(self.views) for chunk in range(self.chunks)]
        return [key(name, *place) for name in self.feature_arrays for place in grid] + [key("labels"), key("index")]

    @property
    def bytes(self) -> int:
        """Size of store and manifest: of codec none to within 2 %, of the others an upper bound."""
        expansion = 1.0 if self.codec == "none" else 1.01
        grid = self.views * self.chunks
        features = sum(math.ceil(a.chunk_bytes * expansion) + CRC_BYTES + ENTRY_BYTES for a in self.feature_arrays.values())
        numbers = 2 * (math.ceil(self.images * 8 * expansion) + CRC_BYTES + ENTRY_BYTES)
        return grid * features + numbers + METADATA_BYTES * (len(self.arrays) + 1)

    def to_json(self) -> dict[str, Any]:
        """Return the layout as it stands in a manifest, for `from_json`."""
        return {**asdict(self), "taps": [list(shape) for shape in self.taps]}

    @staticmethod
    def from_json(value: dict[str, Any]) -> Layout:
        """Return the layout that `to_json` wrote."""
        return Layout(**{**value, "taps": tuple(tuple(shape) for shape in value["taps"])})


def key(name: str, view: int = 0, chunk: int = 0) -> str:
    """The path of a chunk inside the store; one flat folder an array."""
    trailing = {"labels": "0", "index": "0", "log_softmax": f"{view}.{chunk}.0"}
    return f"{name}/c.{trailing.get(name, f'{view}.{chunk}.0.0.0')}"


def amount(size: float) -> str:
    """Bytes for people: 25.1 MB, 8.26 GB, 3.75 TB."""
    if size >= 1e12:
        return f"{size / 1e12:.3g} TB"
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"
