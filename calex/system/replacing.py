"""Files and folders that are either complete or absent, whatever happens while they are written."""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from calex.errors import CalexError

# A full disk, a used-up quota, a limit on the size of files.
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary path in the same folder that becomes `path` in one rename, if the block succeeds.

    The name holds the process id: a job that outlives its killed parent cannot meet its own successor.
    A disk that is full is an error that names `path`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        with open(partial, "rb") as handle:
            os.fsync(handle.fileno())
        os.replace(partial, path)
    except Exception as error:
        number = _system_error(error)
        elsewhere = isinstance(error, OSError) and number not in NO_ROOM and error.filename != str(partial)
        if number is None or elsewhere:
            raise
        advice = "make room and rerun" if number in NO_ROOM else "check the path and its permissions"
        raise CalexError(f"{path}: cannot be written ({os.strerror(number)}); {advice}") from None
    finally:
        with suppress(OSError):  # it would hide what went wrong
            partial.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its name when the block succeeds; what was there before goes.

    A folder cannot be replaced in one step: a kill may leave neither, but never half of one.
    """
    path = Path(path)
    partial, old = (path.with_name(f".{path.name}.{os.getpid()}.{word}") for word in ("partial", "old"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        for file in partial.iterdir():
            with open(file, "rb") as handle:
                os.fsync(handle.fileno())
        if path.exists():
            os.replace(path, old)
        try:
            os.replace(partial, path)
        except OSError:
            if old.exists():
                os.replace(old, path)
            raise
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise CalexError(f"{path}: cannot be written ({os.strerror(error.errno)}); make room and rerun") from None
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _system_error(error: Exception) -> int | None:
    """The system's number of what went wrong; libraries written in Rust (Polars, safetensors) tell it in words only."""
    if isinstance(error, OSError):
        return error.errno
    number = re.search(r"\(os error (\d+)\)", str(error))
    return int(number[1]) if number else None
