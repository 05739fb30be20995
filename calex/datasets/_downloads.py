"""Downloads that continue where they were interrupted and are accepted only with their published checksum."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from calex.datasets._signatures import content_of
from calex.errors import CalexError
from calex.system.locks import guard_of, locked
from calex.system.progress import say, track

BLOCK = 1 << 20  # bytes
SILENCE = 60  # seconds without a byte after which a connection counts as broken
PAUSES = (1, 2, 4, 8)  # seconds between attempts that brought nothing; then the next address


class Interrupted(Exception):
    """A connection that may do better next time."""


def md5(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def verify(path: Path, checksum: str) -> Path:
    """Return the path itself, if its MD5 is the published one."""
    found = md5(path)
    if found != checksum:
        raise CalexError(
            f"{path}: wrong checksum, found {found}, expected {checksum} (MD5); it is damaged or another file: delete it and rerun"
        )
    return path


def verify_own(path: Path, checksum: str) -> Path:
    """Return the path of a user's own file, if its MD5 is the expected one; the error says how to take it anyway."""
    found = md5(path)
    if found != checksum:
        content = content_of(path)
        if content not in (None, "a gzip file"):
            raise CalexError(f"{path}: not the archive, it is {content}; get it again")
        raise CalexError(
            f"{path}: wrong checksum, found {found}, expected {checksum} (MD5): it is damaged, cut off, or packed by somebody"
            f" else; get it again, or, if you trust it, set `md5: {found}` beside `folder`"
        )
    return path


def fetch(urls: tuple[str, ...], path: Path, checksum: str) -> Path:
    """Return the verified file at `path`, downloaded if it is not there yet; the first address that delivers it counts.

    What has arrived is kept beside it as {name}.part, so that a rerun continues from there. Of two processes that
    want the same file one downloads and the other waits.
    """
    if path.exists():
        return verify(path, checksum)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = []
    with locked(guard_of(path), f"download of {path.name}", wait=True), open(part, "ab") as handle:
        if path.exists():  # another process has just finished it
            part.unlink(missing_ok=True)
            return verify(path, checksum)
        for url in urls:
            failure = _download(url, handle, path.name)
            if failure is None:
                found = md5(part)
                if found == checksum:
                    os.fsync(handle.fileno())
                    os.replace(part, path)
                    return path
                content = content_of(part)
                handle.truncate(0)  # going on from it would be wrong for ever
                failure = f"wrong checksum, found {found}, expected {checksum} (MD5)"
                failure += f"; it is {content}" if content not in (None, "a gzip file", "empty") else ""
            failures.append(f"{url}: {failure}")
    raise CalexError(
        f"{path.name}: no download ({'; '.join(failures)}); rerun to continue, or put the file into {path.parent} yourself"
    )


def _download(url: str, handle: IO[bytes], name: str) -> str | None:
    """Append what is missing; return what went wrong at last, or None when all is there."""
    pauses = iter(PAUSES)
    while True:
        start = handle.seek(0, os.SEEK_END)
        try:
            _go_on(url, handle, start, name)
            return None
        except HTTPError as error:
            if error.code == 416 and start:  # nothing lies beyond what we have: the checksum will tell
                return None
            reason = f"HTTP {error.code} {error.reason}"
            if error.code < 500:
                return reason
        except Interrupted as error:
            reason = str(error)
        if handle.seek(0, os.SEEK_END) > start:
            pauses = iter(PAUSES)
        pause = next(pauses, None)
        if pause is None:
            return reason
        say(f"{name}: {reason}; trying again in {pause} s")
        time.sleep(pause)


def _go_on(url: str, handle: IO[bytes], start: int, name: str) -> None:
    headers = {"User-Agent": "calex", "Range": f"bytes={start}-"} if start else {"User-Agent": "calex"}
    with _opened(Request(url, headers=headers)) as response:
        if start and not (response.headers.get("Content-Range") or "").startswith(f"bytes {start}-"):
            handle.truncate(0)  # a server without ranges sends all of it again
        expected = int(response.headers.get("Content-Length") or 0)
        blocks = _blocks(response)
        received = 0
        for block in track(blocks, f"{name}: downloading", -(-expected // BLOCK), "MB") if expected else blocks:
            handle.write(block)
            received += len(block)
        handle.flush()
        if received < expected:
            raise Interrupted(f"the connection ended after {received} of {expected} bytes")


def _opened(request: Request) -> HTTPResponse:
    try:
        return urlopen(request, timeout=SILENCE)
    except HTTPError:
        raise
    except (OSError, HTTPException) as error:
        raise Interrupted(str(error)) from None


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    """Yield what the network sends; its errors are kept apart from those of the disk."""
    while True:
        try:
            block = response.read(BLOCK)
        except (OSError, HTTPException) as error:
            raise Interrupted(str(error) or type(error).__name__) from None
        if not block:
            return
        yield block
