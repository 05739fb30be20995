"""Files that are either whole or absent, and the one spelling of JSON that is compared and hashed."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calex.errors import CalexError

if TYPE_CHECKING:
    import polars


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` in one rename, if the block succeeds.

    The name holds the process id: a job that outlives its killed parent cannot meet its own successor.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def lock(path: Path, what: str) -> int:
    """Take a lock, of which `what` says what it guards; a second one is refused, not made to wait.

    It goes with the process, however that ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise CalexError(f"{path}: another {what} is running; wait for it or end it") from None
        try:
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)  # the file was removed by whoever held it: the lock of a ghost


def unlock(handle: int, path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    finally:
        os.close(handle)


@contextmanager
def alone(path: Path, what: str) -> Iterator[None]:
    """Nobody else who asks makes `path` inside the block."""
    guard = path.with_name(f".{path.name}.lock")
    handle = lock(guard, what)
    try:
        yield
    finally:
        unlock(handle, guard)


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256(*parts: bytes | memoryview | np.ndarray) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else part)
    return digest.hexdigest()


def write_json(path: str | Path, value: Any) -> None:
    with replacing(path) as partial:
        partial.write_text(json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise CalexError(f"{path}: not valid JSON ({error}); delete it and rerun the step that makes it") from None


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
    with replacing(path) as partial, open(partial, "wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]


def read_npz(path: str | Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CalexError(f"{path}: damaged ({error}); delete it and rerun the step that makes it") from None


def read_parquet(path: str | Path) -> polars.DataFrame:
    import polars  # here, because most steps never read a table

    try:
        return polars.read_parquet(path)
    except polars.exceptions.PolarsError as error:
        raise CalexError(
            f"{path}: damaged ({str(error).splitlines()[0]}); delete it and rerun the step that makes it"
        ) from None


def write_npy(path: str | Path, array: np.ndarray) -> None:
    with replacing(path) as partial, open(partial, "wb") as handle:
        np.save(handle, array, allow_pickle=False)


def read_npy(path: str | Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise CalexError(f"{path}: damaged ({error}); delete it and rerun the step that makes it") from None
