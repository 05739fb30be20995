"""A published archive, or a folder that holds the same files: what is in it, and the bytes of each.

An archive is read where it is and never unpacked. So nothing can be written outside of a folder, and hundreds of
thousands of small files never burden a file system. An archive that would try is refused all the same.
"""

from __future__ import annotations

import lzma
import os
import re
import tarfile
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from calex.datasets._downloads import fetch, verify_own
from calex.datasets._signatures import content_of
from calex.errors import CalexError


@dataclass(frozen=True)
class Archive:
    """file: its name. root: the folder that its files lie in. md5: as published. urls: the first that answers counts."""

    file: str
    root: str
    md5: str
    urls: tuple[str, ...]


def find(archive: Archive, resources: Path, folder: str | None, landmark: str, md5: str | None = None) -> Path:
    """Find where to read: the verified .tar.gz, or a folder with the extracted files.

    folder: None downloads into `resources` what is not there yet. Else it is the archive, a folder that holds it, or
    one that holds its extracted files (found by `landmark`, the name of one of them). md5: the checksum that an archive must
    have, None is the published one; extracted files have none, their readers check that all of them are there.
    """
    if md5 is not None and not re.fullmatch("[0-9a-fA-F]{32}", md5):
        raise CalexError(f"source.md5: '{md5}' is no MD5 checksum, which has 32 digits from 0 to f")
    checksum = (md5 or archive.md5).lower()
    if folder is None:
        return fetch(archive.urls, resources / archive.file, checksum)
    given = existing_path(folder)
    for file in (given, given / archive.file):
        if file.is_file():
            return verify_own(file, checksum)
    for place in (given, given / archive.root):
        if (place / landmark).exists():
            return place
    raise CalexError(
        f"{given}: holds neither {archive.file} nor its files ({landmark}, …); correct `folder`, or leave it out to download"
    )


def existing_path(folder: str) -> Path:
    """Return the path that a config gives, if it leads anywhere."""
    path = Path(folder).expanduser()
    if not path.exists():
        raise CalexError(f"{path}: no such folder; correct `folder` (relative paths begin where the run was started)")
    return path


def listing(place: Path, root: str) -> list[str]:
    """List the names of all files below `root`, sorted, as of an extracted archive: `train/cat/1.png`."""
    if place.is_dir():
        found = (os.path.join(folder, file) for folder, _, files in os.walk(place) for file in files)
        return sorted(os.path.relpath(file, place).replace(os.sep, "/") for file in found)
    return sorted(name for name, _ in _members(place, root))


def contents(place: Path, root: str, names: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """Yield (name, bytes) of the files that are named, in whatever order is fastest; one that is missing is an error."""
    wanted = set(names)
    if place.is_dir():
        for name in names:
            try:
                yield name, (place / name).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                raise CalexError(f"{place}: incomplete, there is no file '{name}'; get the archive again") from None
        return
    for name, data in _members(place, root, wanted):
        if name in wanted:
            yield name, data
            wanted.discard(name)
    if wanted:
        raise CalexError(
            f"{place}: incomplete, there is no file '{min(wanted)}' in it; its files must lie in {root}/, or in no folder"
        )


def _members(path: Path, root: str, wanted: Collection[str] = ()) -> Iterator[tuple[str, bytes]]:
    """Yield the name of every plain file of a .tar.gz from front to end, with its bytes if wanted (else none).

    Links, devices and paths that climb out are errors.
    """
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep every header that was read
                pure = PurePosixPath(member.name)
                if pure.is_absolute() or ".." in pure.parts:
                    raise CalexError(f"{path}: unsafe, its entry '{member.name}' climbs out of the archive; do not use it")
                if member.isdir():
                    continue
                if not member.isfile():
                    raise CalexError(f"{path}: unsafe, its entry '{member.name}' is a link or a device; do not use it")
                parts = pure.parts[1:] if pure.parts[0] == root else pure.parts
                name = "/".join(parts)
                stream = archive.extractfile(member) if name in wanted else None
                yield name, b"" if stream is None else stream.read()
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError) as error:
        content = content_of(path)
        reason = str(error) if content in (None, "a gzip file") else f"it is {content}"
        raise CalexError(f"{path}: not a complete .tar.gz ({reason}); download it again") from None
