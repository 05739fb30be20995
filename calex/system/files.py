"""Arrays, tables and JSON in files: damage is one line that says what to rerun. And the one form of JSON that is hashed."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calex.errors import CalexError
from calex.system.replacing import replacing

if TYPE_CHECKING:
    import polars


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(*parts: bytes | memoryview | np.ndarray) -> str:
    """The hash of all parts in turn, in hexadecimal; an array counts with its bytes in C order."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    """Write a value as sorted, indented JSON, completely or not at all; NaN is refused."""
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n", encoding="utf-8")


# Which step makes a file, by the end of its path; of several patterns that fit the first one counts.
MAKERS = {
    "images.npz": "prepare-dataset",
    "images.json": "prepare-dataset",
    "taps.json": "measure-taps",
    "backbone.json": "train-backbone",
    "backbone.safetensors": "train-backbone",
    "features/*.json": "cache-features",
    "branch*.safetensors": "train-branch",
    "weights*.npy": "weigh-survivors",
    "weights*.json": "weigh-survivors",
    "*.thresholds.parquet": "calibrate",
    "*.calibration.json": "calibrate",
    "*.learnt.npz": "calibrate",
    "*.points.parquet": "evaluate",
    "*.exits.npz": "evaluate",
    "exits*.npz": "train-branch",
    "points_*.parquet": "pareto",
    "run.json": "pareto",
    "paired.parquet": "compare",
    "benchmarks/*.json": "benchmark",
    "cascade.json": "export",
    "weights.safetensors": "export",
}


def remedy(path: str | Path) -> str:
    """The end of an error about a file with a fault: which step to run again."""
    step = next((step for pattern, step in MAKERS.items() if Path(path).match(pattern)), "the step that makes it")
    return f"delete it and rerun {step}"


@contextmanager
def _reading(path: str | Path) -> Iterator[None]:
    """Whatever a library raises at damaged content becomes one line.

    A file that cannot be opened stays an OSError, and one that is too large for the memory a MemoryError; but memory for more
    than the file's size is requested because of damaged content.
    """
    try:
        yield
    except CalexError:
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if isinstance(error, MemoryError) and _requested_bytes(error) <= Path(path).stat().st_size:
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CalexError(f"{path}: damaged ({reason}); {remedy(path)}") from None


def _requested_bytes(error: MemoryError) -> int:
    """Bytes of the array that NumPy could not have; 0 where that is unknown."""
    if not hasattr(error, "shape") or not hasattr(error, "dtype"):
        return 0
    return math.prod(error.shape) * error.dtype.itemsize


def read_json(path: str | Path, *keys: str) -> Any:
    """A JSON document; with keys (`layout.images` is nested) an object that holds them."""
    try:
        document = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CalexError(f"{path}: not valid JSON ({error}); {remedy(path)}") from None
    for key in keys:
        part = document
        for name in key.split("."):
            if not isinstance(part, dict) or name not in part:
                raise CalexError(f"{path}: holds no '{key}'; {remedy(path)}")
            part = part[name]
    return document


def read_record(path: str | Path, schema: dict[str, Any], step: str) -> dict[str, Any]:
    """JSON that fits a JSON schema. What does not is an error that names the key, and the step that writes the file."""
    from jsonschema import Draft202012Validator  # here, because most steps read no record
    from jsonschema.exceptions import best_match

    record = read_json(path)
    problem = best_match(Draft202012Validator(schema).iter_errors(record))
    if problem is not None:
        where = "".join(f"{part}: " for part in problem.absolute_path)
        raise CalexError(f"{path}: {where}{problem.message.splitlines()[0][:200]}; delete it and rerun {step}")
    return record


def write_npz(path: str | Path, arrays: dict[str, np.ndarray]) -> None:
    """Uncompressed, so that reading costs what the disk costs; the same arrays give the same bytes."""
    if any(array.dtype.hasobject for array in arrays.values()):
        raise TypeError(f"{path}: only plain arrays are written, no Python objects")
    # As np.savez writes it, to the byte. Older versions leave the archive open when the disk is full, and Python says so later.
    with replacing(path) as partial, open(partial, "wb") as handle, zipfile.ZipFile(handle, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def npz_names(path: str | Path) -> list[str]:
    """The names of the arrays of an archive, none of which is read."""
    with _reading(path):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CalexError(f"{path}: a single array where an .npz archive of arrays is expected; {remedy(path)}")
        with archive:
            return archive.files


def read_npz(path: str | Path, names: Collection[str] | None = None, mapped: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of an archive: all of them, or only those of the given names, which it must hold.

    mapped: those that stay in the file and are read where they are looked at; they cannot be written to, and nothing checks
    their bytes.
    """
    with _reading(path):
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise CalexError(f"{path}: a single array where an .npz archive of arrays is expected; {remedy(path)}")
        with archive:
            for name in names or ():
                if name not in archive.files:
                    raise CalexError(f"{path}: holds no '{name}'; {remedy(path)}")
            wanted = archive.files if names is None else names
            arrays = {name: _mapped(path, name) if name in mapped else archive[name] for name in wanted}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise CalexError(f"{path}: '{name}' is no array; {remedy(path)}")
    return arrays


def _mapped(path: str | Path, name: str) -> np.ndarray:
    """An array of an archive that `write_npz` wrote, as a view of the file's bytes."""
    with open(path, "rb") as handle, zipfile.ZipFile(handle) as archive:
        member = archive.getinfo(f"{name}.npy")
        if member.compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"'{name}' is compressed")
        handle.seek(member.header_offset + 26)
        lengths = int.from_bytes(handle.read(2), "little") + int.from_bytes(handle.read(2), "little")
        handle.seek(member.header_offset + 30 + lengths)
        form = np.lib.format
        header = form.read_array_header_1_0 if form.read_magic(handle) == (1, 0) else form.read_array_header_2_0
        shape, fortran, kind = header(handle)
        if fortran or kind.hasobject:
            raise ValueError(f"'{name}' is no plain array in C order")
        begin = handle.tell()
        if begin + math.prod(shape) * kind.itemsize > member.header_offset + 30 + lengths + member.file_size:
            raise ValueError(f"'{name}' ends too early")
        try:
            return np.memmap(handle, kind, "r", begin, shape) if math.prod(shape) else np.empty(shape, kind)
        except OSError as error:  # of the system and not of the file, which is told by its name
            raise OSError(error.errno, error.strerror, str(path)) from None


def read_parquet(path: str | Path, schema: Mapping[str, Any], gaps: Collection[str] = ()) -> polars.DataFrame:
    """A table with exactly these columns, in this order; only those in `gaps` may lack values."""
    import polars  # here, because most steps never read a table

    with open(path, "rb") as handle:  # Polars would take a folder, a pattern or an address too
        try:
            with _reading(path):
                table = polars.read_parquet(handle)
        except polars.exceptions.PanicException as error:  # no Exception, to Python
            raise CalexError(f"{path}: damaged ({str(error).splitlines()[0]}); {remedy(path)}") from None
    for name, kind in schema.items():
        if name not in table.columns:
            raise CalexError(f"{path}: has no column '{name}'; {remedy(path)}")
        if table.schema[name] != kind:
            raise CalexError(f"{path}: column '{name}' is {table.schema[name]}, not {kind}; {remedy(path)}")
        if name not in gaps and table[name].has_nulls():
            raise CalexError(f"{path}: column '{name}' has gaps; {remedy(path)}")
    return table.select(*schema)


def write_npy(path: str | Path, array: np.ndarray) -> None:
    """Write one array of plain numbers, completely or not at all."""
    with replacing(path) as partial, open(partial, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def read_npy(path: str | Path) -> np.ndarray:
    """The array of an `.npy` file; a CalexError where the file is missing, damaged or of another kind."""
    with _reading(path):
        array = np.load(path, allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise CalexError(f"{path}: an archive where a single array is expected; {remedy(path)}")
    return array
