"""What a file really is, by its first bytes: pages and pointers often have the name of what was wanted."""

from __future__ import annotations

from pathlib import Path
from typing import IO

LENGTH = 32  # bytes that are enough

# The first bytes in lower case, and what they begin.
SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer: run `git lfs pull`"),
    (b"<!doctype html", "a web page, not the file itself"),
    (b"<html", "a web page, not the file itself"),
    (b"<?xml", "an XML or SVG document"),
    (b"<svg", "an SVG drawing: render it to PNG"),
    (b"%pdf", "a PDF document"),
    (b"%!ps", "a PostScript document"),
    (b"pk\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"\x89hdf", "an HDF5 file"),
)
HEIF = {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1"}


def content_of(file: Path | IO[bytes]) -> str | None:
    """Say what a file is, in a phrase that follows `it is`; None if its first bytes say nothing."""
    try:
        if isinstance(file, Path):
            with open(file, "rb") as handle:
                start = handle.read(LENGTH)
        else:
            file.seek(0)
            start = file.read(LENGTH)
    except (OSError, ValueError):
        return None
    if not start:
        return "empty"
    if start[4:8] == b"ftyp" and start[8:12] in HEIF:
        return "HEIC under another name: convert it to JPEG"
    return next((what for signature, what in SIGNATURES if start.lstrip().lower().startswith(signature)), None)
