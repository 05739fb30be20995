"""Locks between processes: if two jobs would write the same file, the second one is refused or waits.

The system's own lock (`flock`) is released when its process ends, for whatever reason. Where it is not available (on some
network file systems and on Windows), a file that names the host and the process takes its place. Such a file remains when
its process is killed. On the same host the next process then takes it over; from another host it cannot be known whether
the process still runs, and the error names the file to delete.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from calex.errors import CalexError
from calex.system.progress import say

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

BUSY = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES}
UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP}
PAUSE = 1.0  # seconds between two checks of a lock that is a file


@contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` and delete it afterwards. `what` names what it guards, for errors.

    Raises CalexError if another process holds it, or waits for that process if `wait` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = _locked_by_system(path, what, wait)
    if handle is not None:
        try:
            yield
        finally:
            try:
                path.unlink(missing_ok=True)
            finally:
                os.close(handle)
        return
    path.unlink(missing_ok=True)  # it cannot be locked
    holder = path.with_name(f"{path.name}.holder")
    say(f"{path.parent}: this file system has no locks; {holder.name} is used instead")
    while not _created(holder):
        _take_over_or_refuse(holder, what, wait)
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)


def guard_of(path: Path) -> Path:
    """The lock file that guards the making of `path`: hidden, beside it."""
    return path.with_name(f".{path.name}.lock")


def _locked_by_system(path: Path, what: str, wait: bool) -> int | None:
    """The open lock file, or None where the system has no such locks."""
    while fcntl is not None:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.stat(path).st_ino == os.fstat(handle).st_ino:
                return handle
            os.close(handle)  # its last holder has removed the file, and another process may have created a new one
        except FileNotFoundError:
            os.close(handle)
        except OSError as error:
            os.close(handle)
            if error.errno in BUSY:
                raise CalexError(f"{path}: another {what} is running; wait for it or end it") from None
            if error.errno not in UNSUPPORTED:
                raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from None
            return None
    return None


def _this_process() -> str:
    return f"{os.getpid()} {socket.gethostname()}"


def _created(holder: Path) -> bool:
    """Whether this call created the file: only one of several processes can, on network file systems too."""
    try:
        handle = os.open(holder, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(_this_process())
    return True


def _take_over_or_refuse(holder: Path, what: str, wait: bool) -> None:
    """Remove the lock of a process that has ended; for one that runs, wait a moment or raise CalexError."""
    try:
        text = holder.read_text(encoding="utf-8")
    except FileNotFoundError:
        return
    process, _, host = text.partition(" ")
    if host == socket.gethostname() and process.isdecimal() and _has_ended(int(process)):
        aside = holder.with_name(f"{holder.name}.{os.getpid()}")
        try:
            os.rename(holder, aside)
        except FileNotFoundError:  # another process was faster
            return
        if aside.read_text(encoding="utf-8") != text:  # meanwhile that process has taken the lock: give it back
            os.replace(aside, holder)
        aside.unlink(missing_ok=True)
    elif wait:
        time.sleep(PAUSE)
    else:
        who = f"process {process} on {host}" if host else "an unknown process"
        raise CalexError(f"{holder}: another {what} is running ({who}); wait for it, or delete this file if it has ended")


def _has_ended(process: int) -> bool:
    """Whether a process of this host has ended; False where that cannot be known (Windows)."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
