"""Locks between processes: of two jobs that would write the same file, the second one is refused, or waits.

The system's own lock (`flock`) ends with its process, however that ends. Where there is none (some network file systems, and
Windows), a file takes its place that names the host and process that hold it. Such a file outlives a killed process: on
the same host it is then taken over; on another host, where nobody can tell, it is an error that says which file to delete.
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
PAUSE = 1.0  # seconds between two looks at a lock that is a file


@contextmanager
def locked(path: Path, what: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, of which `what` says what it guards; the file is gone afterwards.

    Raises CalexError if another process holds it, unless `wait` says to wait for its end.
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
    path.unlink(missing_ok=True)  # nobody can lock it
    holder = path.with_name(f"{path.name}.holder")
    say(f"{path.parent}: no locks on this file system; {holder.name} stands for one")
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
            os.close(handle)  # the file was removed by its last holder, and another one may be there by now
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
    """Was the file made by this call? Of several processes one makes it, on network file systems too."""
    try:
        handle = os.open(holder, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(_this_process())
    return True


def _take_over_or_refuse(holder: Path, what: str, wait: bool) -> None:
    """Remove the lock of a process that is no more, wait a while for another one, or raise CalexError."""
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
        if aside.read_text(encoding="utf-8") != text:  # it has even taken the lock by now: give it back
            os.replace(aside, holder)
        aside.unlink(missing_ok=True)
    elif wait:
        time.sleep(PAUSE)
    else:
        who = f"process {process} on {host}" if host else "an unknown process"
        raise CalexError(f"{holder}: another {what} is running ({who}); wait for it, or delete this file if it has ended")


def _has_ended(process: int) -> bool:
    """Whether a process of this host is no more; where that cannot be known (Windows), it is taken to run."""
    if os.name != "posix":
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return False
