"""The bytes of one chunk, exactly as Zarr's codecs would write them, without the cost of going through Zarr.

Every file ends in the crc32c of what precedes it. The manifest holds the same crc32c, so a chunk that is valid
but lies in another chunk's place is found out by reading it, and a sha256, which rules out a chance match.
"""

from __future__ import annotations

import hashlib
import os
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from calex.errors import CalexError
from calex.features.layout import CRC_BYTES, Array

REMEDY = "delete the manifest and rerun cache-features"
PIECE = 1 << 20  # crc32c holds the interpreter, and each change of hands costs whoever else works: few, and still in cache


class Entry(NamedTuple):
    """What the manifest knows of a chunk file: its size in bytes, the crc32c of its payload, the sha256 of the file."""

    bytes: int
    crc32c: int
    sha256: str


def compressor(codec: str, itemsize: int) -> Any:
    """numcodecs' compressor with the settings of Zarr's codec of that name, or None."""
    if codec == "none":
        return None
    import numcodecs

    if codec == "zstd":
        return numcodecs.Zstd(level=1)
    return numcodecs.Blosc(cname="lz4", clevel=5, shuffle=numcodecs.Blosc.BITSHUFFLE, typesize=itemsize)


def encode(block: np.ndarray, array: Array, codec: str) -> np.ndarray:
    """The payload (bytes, uint8) of a chunk that holds `block`, padded with the fill value where N ends inside it.

    block: (rows, …) of the array's dtype, without the view axis; rows may be fewer than a chunk's.
    """
    rows = array.chunk[array.axes.index("image")]
    if len(block) < rows:
        padded = np.full((rows, *block.shape[1:]), array.fill, array.dtype)
        padded[: len(block)] = block
        block = padded
    payload = np.ascontiguousarray(block, array.dtype).reshape(-1).view(np.uint8)
    packer = compressor(codec, array.dtype.itemsize)
    return payload if packer is None else np.frombuffer(packer.encode(payload.view(array.dtype)), np.uint8)


def write(path: Path, payload: np.ndarray) -> Entry:
    """Write payload and checksum; the file is complete when this returns."""
    crc = google_crc32c.value(payload)
    tail = crc.to_bytes(CRC_BYTES, "little")
    with open(path, "wb", buffering=0) as handle:
        for part in (payload.data, memoryview(tail)):
            while part:  # a raw write may be short; on a full disk the next one says so
                part = part[handle.write(part) :]
    digest = hashlib.sha256(payload.data)
    digest.update(tail)
    return Entry(payload.nbytes + CRC_BYTES, crc, digest.hexdigest())


def read(path: Path, entry: Entry, buffer: np.ndarray | None = None) -> np.ndarray:
    """The verified payload (uint8) of a chunk file, in `buffer` if one of the right size is given.

    Raises CalexError when the file is missing, has another size, fails its crc32c or is another chunk's.
    """
    payload = np.empty(entry.bytes - CRC_BYTES, np.uint8) if buffer is None else buffer
    crc = size = 0
    with opened(path) as handle:
        for start in range(0, len(payload), PIECE):  # checked while the piece is still in the processor's cache
            piece = payload[start : start + PIECE]
            size += fill(handle, piece)
            crc = google_crc32c.extend(crc, piece)
        tail = handle.read(CRC_BYTES + 1) or b""  # one more, to see a file that is too long
    check(path, entry, size + len(tail), crc, tail)
    return payload


def mapped(path: Path, entry: Entry) -> np.ndarray:
    """As `read`, but the payload lies in the page cache, shared by every process that maps it."""
    import torch  # whose maps, unlike Python's, hold no file open: a store may have more chunks than a process may files

    with opened(path) as handle:
        size = os.fstat(handle.fileno()).st_size
    data = torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8).numpy() if size else np.empty(0, np.uint8)
    data.flags.writeable = False
    payload, tail = data[:-CRC_BYTES], data[-CRC_BYTES:]
    check(path, entry, size, google_crc32c.value(payload), tail.tobytes())
    return payload


def check(path: Path, entry: Entry, size: int, crc: int, tail: bytes) -> None:
    """Refuse a file of another size, one that fails its own crc32c, and a valid one that belongs to another chunk."""
    if size != entry.bytes:
        raise CalexError(f"{path}: chunk does not have the {entry.bytes} bytes that the manifest says; {REMEDY}")
    if crc != int.from_bytes(tail, "little"):
        raise CalexError(f"{path}: chunk is damaged (crc32c does not match); {REMEDY}")
    if crc != entry.crc32c:
        raise CalexError(f"{path}: chunk is not the one that the manifest names (swapped or of another dump); {REMEDY}")


def opened(path: Path) -> FileIO:
    """A chunk's file for reading; a CalexError where it is missing."""
    try:
        return FileIO(path)
    except FileNotFoundError:
        raise CalexError(f"{path}: chunk is missing; {REMEDY}") from None


def fill(handle: FileIO, piece: np.ndarray) -> int:
    """Fill `piece` from a raw file as far as it goes; the number of bytes read."""
    done = 0
    while done < len(piece) and (count := handle.readinto(piece[done:].data)):
        done += count
    return done


def decode(
    payload: np.ndarray, array: Array, codec: str, rows: int, path: Path, buffer: np.ndarray | None = None
) -> np.ndarray:
    """The first `rows` images of a chunk: (rows, …) of the array's dtype; decompressed into `buffer` if one is given."""
    unpacker = compressor(codec, array.dtype.itemsize)
    if unpacker is not None:
        packed, payload = payload, np.empty(array.chunk_bytes, np.uint8) if buffer is None else buffer
        try:
            unpacker.decode(packed, out=payload)
        except (RuntimeError, ValueError) as error:
            raise CalexError(f"{path}: chunk cannot be decompressed ({error}); {REMEDY}") from None
    return payload.view(array.dtype).reshape(array.chunk[array.axes.index("image") :])[:rows]


def sha256_of(path: Path) -> str:
    """The hash of a file's bytes, in hexadecimal."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
