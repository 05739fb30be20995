"""Writing a feature store: resumable, guarded, and under its final name only when it is whole.

A dump works in `.{split}.zarr.{fingerprint}.partial`, where each chunk is journaled with its checksum once its file
is whole; a dump that was killed, however, goes on from there. Nothing needs an fsync for that: a resume takes up a
chunk only if the file still has the journaled checksum.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calex.errors import CalexError
from calex.features import chunks
from calex.features.chunks import Entry
from calex.features.layout import Layout, key
from calex.features.store import FORMAT, checksum, open_at
from calex.files import canonical_json, sha256, write_json

MARGIN = 1.02  # of the predicted size: what a file system needs for itself


class Dump:
    """One dump of one split.

        with Dump(folder, "train", layout, labels, index, provenance) as dump:
            for view, chunk, start, stop in dump.pending():
                dump.write(view, chunk, taps, log_softmax)
            dump.finish()

    labels, index: (N,) int64, the class and the number in its source of each image, in stored order.
    provenance: JSON values that go into the manifest; what is in it identifies the dump, so that a resume never
        mixes two of them. `dataset_fingerprint` and `backbone_fingerprint` are what `open_store` compares, `taps`
        (a list of names) is what errors call the taps.
    Raises CalexError when another dump of the split is running or the disk has too little room.
    """

    def __init__(
        self,
        folder: str | Path,
        split: str,
        layout: Layout,
        labels: np.ndarray,
        index: np.ndarray,
        provenance: dict[str, Any],
    ):
        self.folder, self.split, self.layout, self.provenance = Path(folder), split, layout, provenance
        self.labels, self.index = np.asarray(labels, np.int64), np.asarray(index, np.int64)
        for name, array in (("labels", self.labels), ("index", self.index)):
            if array.shape != (layout.images,):
                raise CalexError(f"{name} of shape {array.shape} for a store of {layout.images} images")
        identity = canonical_json({"split": split, "layout": layout.to_json(), "provenance": provenance})
        self.fingerprint = sha256(identity.encode(), self.labels, self.index)
        self.partial = self.folder / f".{split}.zarr.{self.fingerprint[:16]}.partial"
        self.store, self.journal = self.partial / "store.zarr", self.partial / "journal.jsonl"
        self.final, self.manifest = self.folder / f"{split}.zarr", self.folder / f"{split}.json"
        self.entries: dict[str, Entry] = {}

    def __enter__(self) -> Dump:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder / f".{self.split}.lock")
        try:
            self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        unlock(self._lock, self.folder / f".{self.split}.lock")

    def _begin(self) -> None:
        """Take up what an earlier attempt left, or start afresh if the disk has room."""
        if self.journal.exists() and not self.store.exists() and self.final.exists() and not self.manifest.exists():
            os.replace(self.final, self.store)  # killed between its last two steps
        self.entries = resumed(self.store, self.journal) if self.journal.exists() else {}
        done = sum(entry.bytes for entry in self.entries.values())
        self._refuse_without_room(int(self.layout.bytes * MARGIN) - done)
        if not self.entries:
            shutil.rmtree(self.partial, ignore_errors=True)
        with naming_full_disk(self.partial):
            if not self.store.exists():
                self.partial.mkdir()
                create(self.store, self.layout, self.fingerprint)
            for name in ("labels", "index"):
                self._put(name, 0, 0, getattr(self, name))

    def _refuse_without_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise CalexError(
                f"{self.folder}: the {self.split} store needs {needed / 1e9:.3g} GB more and the disk has "
                f"{free / 1e9:.3g} GB; make room, cache fewer views, or set `codec: zstd`"
            )

    def pending(self) -> Iterator[tuple[int, int, int, int]]:
        """(view, chunk number, first image, one past the last) of each chunk that is not whole on disk yet."""
        for view in range(self.layout.views):
            for number in range(self.layout.chunks):
                if any(key(name, view, number) not in self.entries for name in self.layout.feature_arrays):
                    yield view, number, *self.layout.bounds(number)

    def write(self, view: int, chunk_number: int, taps: Sequence[np.ndarray], log_softmax: np.ndarray) -> None:
        """Store one chunk of every array.

        taps: (rows, C, H, W) each, float16 or float32; log_softmax: (rows, K). The arrays are handed over: the
        caller must not change them afterwards.
        Raises CalexError naming tap and image when a value is not finite in the store's precision.
        """
        blocks = {f"tap{k}": tap for k, tap in enumerate(taps)} | {"log_softmax": log_softmax}
        start, stop = self.layout.bounds(chunk_number)
        for name, array in self.layout.feature_arrays.items():
            if blocks[name].shape != (stop - start, *array.shape[2:]):
                raise CalexError(f"{name}: got {blocks[name].shape} for a chunk of {(stop - start, *array.shape[2:])}")
        with naming_full_disk(self.partial):
            for name, block in blocks.items():
                self._put(name, view, chunk_number, self._stored(name, view, start, block))

    def _stored(self, name: str, view: int, start: int, block: np.ndarray) -> np.ndarray:
        """The block in the array's dtype, every value finite."""
        dtype = self.layout.arrays[name].dtype
        with np.errstate(over="ignore"):
            stored = block.astype(dtype, copy=False)
        bad = np.flatnonzero(~finite_rows(stored))
        if len(bad):
            image = int(self.index[start + bad[0]])
            if name == "log_softmax":
                raise CalexError(f"log_softmax: image {image} (view {view}) has values that are not finite; check the backbone")
            tap = int(name.removeprefix("tap"))
            label = self.provenance.get("taps", [])[tap : tap + 1] or [name]
            fits = dtype.name == "float16"
            remedy = "set `precision: float32`" if fits else "check the backbone, its activations overflow"
            raise CalexError(
                f"tap '{label[0]}': image {image} (view {view}) has values that {dtype.name} cannot hold; {remedy}"
            )
        return stored

    def _put(self, name: str, view: int, number: int, block: np.ndarray) -> None:
        where = key(name, view, number)
        entry = chunks.write(self.store / where, chunks.encode(block, self.layout.arrays[name], self.layout.codec))
        with open(self.journal, "a", encoding="utf-8") as handle:
            handle.write(json.dumps([where, *entry]) + "\n")
        self.entries[where] = entry

    def finish(self, measured: dict[str, Any] | None = None) -> None:
        """Check the store and give it its name, then write the manifest.

        measured: provenance known only now; it is recorded but does not identify the dump.
        """
        missing = [where for where in self.layout.chunk_paths() if where not in self.entries]
        if missing:
            raise CalexError(f"{self.partial}: {len(missing)} chunks are not written yet, {missing[0]} is the first")
        metadata = ["zarr.json", *(f"{name}/zarr.json" for name in self.layout.arrays)]
        manifest = {
            "format": FORMAT,
            "split": self.split,
            "fingerprint": self.fingerprint,
            "layout": self.layout.to_json(),
            "arrays": {
                name: {"shape": list(array.shape), "chunks": list(array.chunk), "dtype": array.dtype.name}
                for name, array in self.layout.arrays.items()
            },
            "provenance": self.provenance | (measured or {}),
            "metadata": {where: chunks.sha256_of(self.store / where) for where in metadata},
            "chunks": {where: self.entries[where]._asdict() for where in self.layout.chunk_paths()},
        }
        manifest["checksum"] = checksum(manifest)
        open_at(self.store, manifest)
        # In this order no moment has a manifest beside a store that is not its own.
        self.manifest.unlink(missing_ok=True)
        old = self.folder / f".{self.split}.zarr.old.partial"
        if self.final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.final, old)
        os.replace(self.store, self.final)
        with naming_full_disk(self.partial):
            write_json(self.manifest, manifest)
        for leftover in self.folder.glob(f".{self.split}.zarr.*.partial"):  # this dump's, and those of abandoned settings
            shutil.rmtree(leftover, ignore_errors=True)


def create(path: Path, layout: Layout, fingerprint: str) -> None:
    """An empty store: the group and the metadata of its arrays, written by zarr itself."""
    import zarr
    from zarr.codecs import BloscCodec, BloscShuffle, Crc32cCodec, ZstdCodec

    group = zarr.create_group(path, zarr_format=3, attributes={"calex": {"format": FORMAT, "fingerprint": fingerprint}})
    for name, array in layout.arrays.items():
        packers: dict[str, list[Any]] = {
            "none": [],
            "lz4": [BloscCodec(cname="lz4", clevel=5, shuffle=BloscShuffle.bitshuffle, typesize=array.dtype.itemsize)],
            "zstd": [ZstdCodec(level=1)],
        }
        group.create_array(
            name,
            shape=array.shape,
            chunks=array.chunk,
            dtype=array.dtype,
            compressors=[*packers[layout.codec], Crc32cCodec()],
            fill_value=array.fill,
            chunk_key_encoding={"name": "default", "separator": "."},
            dimension_names=array.axes,
        )


def resumed(store: Path, journal: Path) -> dict[str, Entry]:
    """The journaled chunks whose files still have the journaled checksum."""
    found = {}
    for line in journal.read_text(encoding="utf-8").splitlines():
        try:
            where, *entry = json.loads(line)
        except ValueError:  # the line that was being written when the dump was killed
            continue
        found[where] = Entry(*entry)
    return {
        where: entry
        for where, entry in found.items()
        if (store / where).is_file() and chunks.sha256_of(store / where) == entry.sha256
    }


def finite_rows(block: np.ndarray) -> np.ndarray:
    """(rows,) bool: rows of which every value is finite. Looks at the exponent bits, four times faster than isfinite."""
    bits, mask = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}[block.dtype.itemsize]
    exponents = np.ascontiguousarray(block).view(bits).reshape(len(block), -1) & bits(mask)
    return exponents.max(axis=1) < mask


class naming_full_disk:
    """Turn "no space left" into one line that says what to do; what was written stays for the resume."""

    def __init__(self, partial: Path):
        self.partial = partial

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CalexError(
                f"{self.partial.parent}: the disk is full; make room and rerun, the dump goes on from here"
            ) from None


def lock(path: Path) -> int:
    """Take the split's lock; a second dump of the same split is refused, not made to wait."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise CalexError(f"{path}: another dump of this split is running; wait for it or end it") from None
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the file was removed by the dump that held it: the lock of a ghost


def unlock(handle: int, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.close(handle)
