"""Reading a feature store: nothing that is missing, damaged or foreign is ever handed out as data.

A store is a plain Zarr v3 group, `{split}.zarr`, beside a manifest, `{split}.json`, that is written last. Opening
checks everything that can be checked without reading features; reading checks the chunk that it reads.
"""

from __future__ import annotations

import itertools
import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from calex.errors import CalexError
from calex.features import chunks
from calex.features.chunks import REMEDY, Entry
from calex.features.layout import CRC_BYTES, Layout, key
from calex.system.files import canonical_json, read_json, sha256
from calex.system.progress import track

FORMAT = 1
CODEC_CHAINS = {"none": ["bytes", "crc32c"], "lz4": ["bytes", "blosc", "crc32c"], "zstd": ["bytes", "zstd", "crc32c"]}


class Store:
    """An opened store. Arrays are NumPy arrays of the stored dtype; `layout` names V, N, C, H, W, K and the chunk rows."""

    def __init__(self, path: Path, manifest: dict[str, Any], layout: Layout):
        self.path, self.manifest, self.layout = path, manifest, layout
        self.entries = {name: Entry(**entry) for name, entry in manifest["chunks"].items()}
        self.arrays = layout.arrays

    @property
    def provenance(self) -> dict[str, Any]:
        """What the dump's caller recorded: fingerprints, names, transform, precision, versions, FLOPs."""
        return self.manifest["provenance"]

    def chunk(self, name: str, view: int = 0, number: int = 0, buffer: np.ndarray | None = None) -> np.ndarray:
        """One verified chunk of one array, without the view axis and without padding: (rows, …).

        buffer: (chunk bytes,) uint8 to put it in, to spare a new allocation each time.
        """
        where = key(name, view, number)
        path, entry = self.path / where, self.entries[where]
        payload = chunks.read(path, entry, buffer if self.layout.codec == "none" else None)
        return chunks.decode(payload, self.arrays[name], self.layout.codec, self._rows(name, number), path, buffer)

    def mapped(self, name: str, view: int, number: int) -> np.ndarray:
        """As `chunk`, but read-only in memory that processes share, where the codec allows it."""
        if self.layout.codec != "none":
            return self.chunk(name, view, number)
        where = key(name, view, number)
        payload = chunks.mapped(self.path / where, self.entries[where])
        return chunks.decode(payload, self.arrays[name], "none", self._rows(name, number), self.path / where)

    def _rows(self, name: str, number: int) -> int:
        return self.layout.rows_in(number) if name in self.layout.feature_arrays else self.layout.images

    def read(self, tap: int, view: int, chunk_number: int) -> np.ndarray:
        """A verified chunk of a tap: (rows, C, H, W) float16 or float32.

        Raises CalexError, naming the chunk, when it is missing, truncated, damaged or another chunk.
        """
        return self.chunk(f"tap{tap}", view, chunk_number)

    def whole(self, name: str) -> np.ndarray:
        """A whole array, every chunk verified: (V, N, …)."""
        array = self.arrays[name]
        result = np.empty(array.shape, array.dtype)
        for view in range(self.layout.views):
            for number in range(self.layout.chunks):
                start, stop = self.layout.bounds(number)
                result[view, start:stop] = self.chunk(name, view, number)
        return result

    def tap(self, tap: int) -> np.ndarray:
        """(V, N, C, H, W), float16 or float32 as stored."""
        return self.whole(f"tap{tap}")

    @cached_property
    def labels(self) -> np.ndarray:
        """(N,) int64: the class of each image."""
        return self.chunk("labels")

    @cached_property
    def index(self) -> np.ndarray:
        """(N,) int64: the number of each image in its source."""
        return self.chunk("index")

    @cached_property
    def log_softmax(self) -> np.ndarray:
        """(V, N, K) float32: the backbone's log-probabilities."""
        return self.whole("log_softmax")


def open_store(folder: str | Path, split: str, *, dataset: str | None = None, backbone: str | None = None) -> Store:
    """Open `{folder}/{split}.zarr`, strictly and cheaply: features themselves are checked as they are read.

    Parameters
    ----------
    folder : path
        Where `{split}.zarr` and its manifest `{split}.json` are.
    split : {"train", "val", "test"}
        Whose images.
    dataset, backbone : str, optional
        Fingerprints that the store must have been made from.

    Returns
    -------
    Store
        The frozen network's features, log-probabilities and labels.

    Raises
    ------
    CalexError
        Naming the file and the remedy: for a manifest that is missing, damaged, edited, of another format or of another
        store, and for metadata or a chunk file that is missing or not as the manifest says.

    Examples
    --------
    In the folder of a finished run:

    >>> store = open_store("results/digits/resnet18/features", "test")
    >>> store.labels.shape, store.log_softmax.shape
    ((400,), (1, 400, 10))
    >>> store.tap(0).shape[:2]  # (V, N, C, H, W): what the first branch reads
    (1, 400)
    """
    store = with_manifest(Path(folder), split)
    for name, asked in (("dataset", dataset), ("backbone", backbone)):
        recorded = store.provenance.get(f"{name}_fingerprint")
        if asked is not None and recorded != asked:
            raise CalexError(f"{Path(folder) / split}.json: made from another {name} ({recorded}, asked for {asked}); {REMEDY}")
    check_files(store)
    return store


def folder_and_split(store: Path) -> tuple[Path, str]:
    """Folder and split of a store that a person names by its path, that of its manifest, or without an ending."""
    return store.parent, store.name.removesuffix(".zarr").removesuffix(".json")


def with_manifest(folder: Path, split: str) -> Store:
    """The store that a manifest describes; its metadata is checked, its chunks are not looked at."""
    path, manifest_path = folder / f"{split}.zarr", folder / f"{split}.json"
    if not manifest_path.is_file():
        raise CalexError(f"{manifest_path}: no manifest, so the store is not complete; run cache-features")
    manifest = read_manifest(manifest_path)
    if manifest["split"] != split:
        raise CalexError(f"{manifest_path}: manifest of split '{manifest['split']}', not of '{split}'; {REMEDY}")
    if not path.is_dir():
        raise CalexError(f"{path}: the store is gone, only its manifest is left; {REMEDY}")
    return store_of(path, manifest)


def store_of(path: Path, manifest: dict[str, Any]) -> Store:
    """The store that a manifest describes, checked against the metadata on disk and not yet against the chunks."""
    layout = Layout.from_json(manifest["layout"])
    check_metadata(path, layout, manifest["metadata"])
    if sorted(manifest["chunks"]) != sorted(layout.chunk_paths()):
        raise CalexError(f"{path}: the manifest's chunks are not those of its layout; {REMEDY}")
    return Store(path, manifest, layout)


def check_files(store: Store) -> None:
    """Every chunk file is there, as long as it has to be; labels and index are read."""
    for where, entry in store.entries.items():
        needed = store.arrays[where.split("/")[0]].chunk_bytes + CRC_BYTES
        if store.layout.codec == "none" and entry.bytes != needed:
            raise CalexError(f"{store.path / where}: the manifest says {entry.bytes} bytes, its shape needs {needed}; {REMEDY}")
        try:
            size = (store.path / where).stat().st_size
        except FileNotFoundError:
            raise CalexError(f"{store.path / where}: chunk is missing; {REMEDY}") from None
        if size != entry.bytes:
            raise CalexError(f"{store.path / where}: chunk has {size} bytes where the manifest says {entry.bytes}; {REMEDY}")
    for name in ("labels", "index"):
        store.chunk(name)


def read_manifest(path: Path) -> dict[str, Any]:
    """A manifest whose format is known and whose own checksum holds."""
    manifest = read_json(path)
    if not isinstance(manifest, dict) or "format" not in manifest:
        raise CalexError(f"{path}: not a feature store's manifest; {REMEDY}")
    if manifest["format"] != FORMAT:
        raise CalexError(f"{path}: store format {manifest['format']}, this calex reads format {FORMAT}; {REMEDY}")
    if manifest.get("checksum") != checksum(manifest):
        raise CalexError(f"{path}: manifest was edited or damaged (its checksum does not match); {REMEDY}")
    return manifest


def checksum(manifest: dict[str, Any]) -> str:
    """sha256 over all of a manifest but this checksum itself."""
    return sha256(canonical_json({name: value for name, value in manifest.items() if name != "checksum"}).encode())


def check_metadata(path: Path, layout: Layout, metadata: dict[str, str]) -> None:
    """Each zarr.json is the one that was written, and says what the layout says."""
    files = {"zarr.json", *(f"{name}/zarr.json" for name in layout.arrays)}
    if set(metadata) != files:
        raise CalexError(f"{path}: the manifest's arrays are not those of its layout; {REMEDY}")
    for where, digest in metadata.items():
        try:
            text = (path / where).read_bytes()
        except FileNotFoundError:
            raise CalexError(f"{path / where}: missing; {REMEDY}") from None
        if sha256(text) != digest:
            raise CalexError(f"{path / where}: not the metadata that the manifest names (edited, or of another dump); {REMEDY}")
        if where == "zarr.json":
            continue
        node, array = json.loads(text), layout.arrays[where.removesuffix("/zarr.json")]
        stored = {
            "shape": node["shape"],
            "data_type": node["data_type"],
            "chunks": node["chunk_grid"]["configuration"]["chunk_shape"],
            "codecs": [codec["name"] for codec in node["codecs"]],
        }
        expected = {
            "shape": list(array.shape),
            "data_type": array.dtype.name,
            "chunks": list(array.chunk),
            "codecs": CODEC_CHAINS[layout.codec],
        }
        for what in expected:
            if stored[what] != expected[what]:
                raise CalexError(f"{path / where}: {what} is {stored[what]} where the layout has {expected[what]}; {REMEDY}")


def verify(folder: str | Path, split: str) -> list[str]:
    """Recheck every byte of a store; the problems found, one line each (none: the store is undamaged).

    Rereads each chunk against the manifest's sha256 and looks for values that are not finite.
    """
    try:
        store = with_manifest(Path(folder), split)
    except CalexError as error:
        return [str(error)]
    problems = []
    grid = itertools.product(store.layout.feature_arrays, range(store.layout.views), range(store.layout.chunks))
    places = [*grid, ("labels", 0, 0), ("index", 0, 0)]
    for name, view, number in track(places, f"verify {split}", len(places), "chunk"):
        where = key(name, view, number)
        try:
            block = store.chunk(name, view, number)
        except CalexError as error:
            problems.append(str(error))
            continue
        if chunks.sha256_of(store.path / where) != store.entries[where].sha256:
            problems.append(f"{store.path / where}: sha256 does not match; {REMEDY}")
        if block.dtype.kind == "f" and not np.isfinite(block).all():
            problems.append(f"{store.path / where}: holds values that are not finite; {REMEDY}")
    return problems
