"""Writing a feature store: resumable, locked, and under its final name only when it is complete.

A dump works in `.{split}.zarr.{fingerprint}.partial`, where each chunk is recorded in a journal, with its checksum,
once its file is complete; a dump that was killed resumes from there. This needs no fsync: a resumed dump keeps a chunk
only if its file still has the recorded checksum.
"""

from __future__ import annotations

import errno
import glob
import os
import shutil
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from calex.errors import CalexError
from calex.features import chunks
from calex.features.chunks import Entry
from calex.features.journal import journal_line, resumed, write_journal
from calex.features.layout import Layout, amount, key
from calex.features.store import FORMAT, check_files, checksum, store_of
from calex.system.files import canonical_json, read_json, sha256, write_json
from calex.system.locks import locked
from calex.system.progress import say

MARGIN = 1.02  # times the predicted size, for the file system's own records


class Dump:
    """One dump of one split; chunks are encoded and written by threads while the caller computes the next ones.

        with Dump(folder, "train", layout, labels, index, provenance) as dump:
            for view, chunk, start, stop in dump.pending():
                dump.write(view, chunk, taps, log_softmax)
            dump.finish()

    labels, index: (N,) int64, the class and the number in its source of each image, in stored order.
    provenance: JSON values that go into the manifest; what is in it identifies the dump, so that a resume never
        mixes two of them. `dataset_fingerprint` and `backbone_fingerprint` are what `open_store` compares, `taps`
        (a list of names) is what errors call the taps.
    threads: how many threads write; at most twice as many chunks wait in memory.
    code: hashes of the code that computes the chunks. A killed dump is resumed only by the same code. The store does not
        record it: code that computes the same values makes the same store.
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
        threads: int = 2,
        code: Sequence[str] = (),
    ):
        self.folder, self.split, self.layout, self.provenance = Path(folder), split, layout, provenance
        self.labels, self.index = np.asarray(labels, np.int64), np.asarray(index, np.int64)
        for name, array in (("labels", self.labels), ("index", self.index)):
            if array.shape != (layout.images,):
                raise CalexError(f"{name}: shape {array.shape} for a store of {layout.images} images")
        if self.labels.min() < 0 or self.labels.max() >= layout.classes:
            raise CalexError(f"labels: {self.labels.min()} to {self.labels.max()}, expected 0 to {layout.classes - 1}")
        identity = canonical_json({"split": split, "layout": layout.to_json(), "provenance": provenance})
        self.fingerprint = sha256(identity.encode(), self.labels, self.index)
        attempt = sha256(self.fingerprint.encode(), *(part.encode() for part in code))
        self.partial = self.folder / f".{split}.zarr.{attempt[:16]}.partial"
        self.store, self.journal = self.partial / "store.zarr", self.partial / "journal.jsonl"
        self.final, self.manifest = self.folder / f"{split}.zarr", self.folder / f"{split}.json"
        self.entries: dict[str, Entry] = {}
        self.threads, self.waiting, self.journaling = threads, deque[Future[None]](), threading.Lock()

    def __enter__(self) -> Dump:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = ExitStack()
        self.lock.enter_context(locked(self.folder / f".{self.split}.lock", "dump of this split"))
        self.writers = ThreadPoolExecutor(self.threads, "chunk-writer")
        try:
            with naming_full_disk(self.folder):
                self._begin()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Release the lock; what was written stays for the next attempt, unless `finish` was reached."""
        self.writers.shutdown(wait=True, cancel_futures=True)
        self.lock.close()

    def _begin(self) -> None:
        """Resume an earlier attempt, or start a new one if the disk has room."""
        if (
            self.journal.exists()
            and not self.store.exists()
            and not self.manifest.exists()
            and self._is_of_this_dump(self.final)
        ):
            os.replace(self.final, self.store)  # killed between its last two steps
        self.entries = resumed(self.store, self.journal)
        done, size = sum(entry.bytes for entry in self.entries.values()), self.layout.bytes
        say(f"{self.final}: {amount(size)}" + (f", {amount(done)} of it already written" if done else ""))
        self._refuse_without_room(int(size * MARGIN) - done)
        if not self.entries:
            shutil.rmtree(self.partial, ignore_errors=True)
            self.partial.mkdir()
            create(self.store, self.layout, self.fingerprint)
        write_journal(self.journal, self.entries)
        for name, block in (("labels", self.labels), ("index", self.index)):
            self._put(name, 0, 0, block)

    def _is_of_this_dump(self, store: Path) -> bool:
        try:
            return read_json(store / "zarr.json")["attributes"]["calex"]["fingerprint"] == self.fingerprint
        except (OSError, CalexError, LookupError, TypeError):
            return False

    def _refuse_without_room(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            removable = [str(path) for path in (self.final, *self._leftovers()) if path.exists() and path != self.partial]
            remedy = f"delete {' or '.join(removable)}" if removable else "make room, cache fewer views, or set `codec: zstd`"
            raise CalexError(
                f"{self.folder}: the {self.split} store needs {amount(needed)} more and the disk has {amount(free)}; {remedy}"
            )

    def _leftovers(self) -> Iterator[Path]:
        """Partial directories of this split: this dump's own, and those of earlier settings."""
        return self.folder.glob(f".{glob.escape(self.split)}.zarr.*.partial")

    def pending(self) -> Iterator[tuple[int, int, int, int]]:
        """(view, chunk number, first image, one past the last) of each chunk that is not yet completely on disk."""
        for view in range(self.layout.views):
            for number in range(self.layout.chunks):
                if any(key(name, view, number) not in self.entries for name in self.layout.feature_arrays):
                    yield view, number, *self.layout.bounds(number)

    def write(self, view: int, chunk_number: int, taps: Sequence[np.ndarray], log_softmax: np.ndarray) -> None:
        """Hand over one chunk of every array; it returns when the chunk is in the queue, not when it is written.

        taps: (rows, C, H, W) each, float16 or float32; log_softmax: (rows, K). The caller must not change them
        afterwards.
        Raises CalexError, possibly about a chunk handed over earlier: when a value is not finite in the store's
        precision (naming tap and image), and when the disk is full.
        """
        blocks = {**{f"tap{k}": tap for k, tap in enumerate(taps)}, "log_softmax": log_softmax}
        start, stop = self.layout.bounds(chunk_number)
        wanted = {name: (stop - start, *array.shape[2:]) for name, array in self.layout.feature_arrays.items()}
        if (got := {name: block.shape for name, block in blocks.items()}) != wanted:
            raise CalexError(f"chunk {chunk_number} of {self.final}: got arrays of {got}, expected {wanted}")
        while self.waiting and (self.waiting[0].done() or len(self.waiting) >= 2 * self.threads):
            self.waiting.popleft().result()
        self.waiting.append(self.writers.submit(self._write, view, chunk_number, blocks))

    def _write(self, view: int, number: int, blocks: dict[str, np.ndarray]) -> None:
        with naming_full_disk(self.folder):
            for name, block in blocks.items():
                self._put(name, view, number, self._stored(name, view, number, block))

    def _stored(self, name: str, view: int, number: int, block: np.ndarray) -> np.ndarray:
        """The block in the array's dtype, every value finite."""
        dtype = self.layout.arrays[name].dtype
        with np.errstate(over="ignore"):
            stored = block.astype(dtype, copy=False)
        finite = finite_rows(stored)
        if finite.all():
            return stored
        image = int(self.index[self.layout.bounds(number)[0] + finite.argmin()])
        remedy = "set `precision: float32`" if dtype.name == "float16" else "the backbone itself diverges on it: check both"
        raise CalexError(f"{self._label(name)}: image {image} (view {view}) has values that {dtype.name} cannot hold; {remedy}")

    def _label(self, name: str) -> str:
        """The name of an array in errors: its tap's name where the caller gave one."""
        names = dict(zip((f"tap{k}" for k in range(len(self.layout.taps))), self.provenance.get("taps", []), strict=False))
        return f"tap '{names[name]}'" if name in names else name

    def _put(self, name: str, view: int, number: int, block: np.ndarray) -> None:
        where = key(name, view, number)
        entry = chunks.write(self.store / where, chunks.encode(block, self.layout.arrays[name], self.layout.codec))
        with self.journaling:
            with open(self.journal, "a", encoding="utf-8") as handle:
                handle.write(journal_line(where, entry))
            self.entries[where] = entry

    def finish(self, measured: dict[str, Any] | None = None) -> None:
        """Check the store and give it its name, then write the manifest.

        measured: provenance known only now; it is recorded but does not identify the dump.
        """
        while self.waiting:
            self.waiting.popleft().result()
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
        check_files(store_of(self.store, manifest))
        complete = self.partial / "manifest.json"
        with naming_full_disk(self.folder):
            write_json(complete, manifest)
        # In this order there is never a manifest beside a store that is not its own.
        self.manifest.unlink(missing_ok=True)
        old = self.folder / f".{self.split}.zarr.old.partial"
        if self.final.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(self.final, old)
        os.replace(self.store, self.final)
        os.replace(complete, self.manifest)
        for leftover in self._leftovers():
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


def finite_rows(block: np.ndarray) -> np.ndarray:
    """(rows,) bool: rows of which every value is finite. Looks at the exponent bits, four times faster than isfinite."""
    bits, mask = {2: (np.uint16, 0x7C00), 4: (np.uint32, 0x7F800000)}[block.dtype.itemsize]
    exponents = np.ascontiguousarray(block).view(bits).reshape(len(block), -1) & bits(mask)
    return exponents.max(axis=1) < mask


@contextmanager
def naming_full_disk(folder: Path) -> Iterator[None]:
    """Turn "no space left" into one line that says what to do; what was written stays for the resume."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise CalexError(f"{folder}: the disk is full; make room and rerun, the dump continues from here") from None
        raise
