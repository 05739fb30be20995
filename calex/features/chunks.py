"""The bytes of one chunk, exactly as Zarr's codecs would write them, without the cost of going through Zarr.

Every file ends in the crc32c of what precedes it. The manifest holds the same crc32c, so a chunk that is whole
but lies in another chunk's place is found out by reading it, and a sha256, which rules out a chance match.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import google_crc32c
import numpy as np

from calex.errors import CalexError
from calex.features.layout import CRC_BYTES, Array

REMEDY = "delete the manifest and rerun cache-features"


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
    """Write payload and checksum; the file appears under its name only when it is whole."""
    crc = google_crc32c.value(payload)
    tail = crc.to_bytes(CRC_BYTES, "little")
    partial = path.with_name(f"{path.name}.partial")
    with open(partial, "wb", buffering=0) as handle:
        for part in (payload.data, memoryview(tail)):
            while part:  # a raw write may be short; on a full disk the next one says so
                part = part[handle.write(part) :]
    os.replace(partial, path)
    digest = hashlib.sha256(payload.data)
    digest.update(tail)
    return Entry(payload.nbytes + CRC_BYTES, crc, digest.hexdigest())


def payload_of(path: Path, entry: Entry) -> np.ndarray:
    """The verified payload (uint8) of a chunk file.

    Raises CalexError when the file is missing, has another size, fails its crc32c or is another chunk's.
    """
    try:
        with open(path, "rb", buffering=0) as handle:
            data = np.empty(entry.bytes + 1, np.uint8)  # one more, to see a file that is too long
            size = read_into(handle.readinto, data)
    except FileNotFoundError:
        raise CalexError(f"{path}: chunk is missing; {REMEDY}") from None
    if size != entry.bytes:
        raise CalexError(f"{path}: chunk has {size} bytes where the manifest says {entry.bytes}; {REMEDY}")
    payload, tail = data[: entry.bytes - CRC_BYTES], data[entry.bytes - CRC_BYTES : entry.bytes]
    crc = google_crc32c.value(payload)
    if crc != int.from_bytes(tail.tobytes(), "little"):
        raise CalexError(f"{path}: chunk is damaged (crc32c does not match); {REMEDY}")
    if crc != entry.crc32c:
        raise CalexError(f"{path}: chunk is not the one that the manifest names (swapped or of another dump); {REMEDY}")
    return payload


def read_into(readinto: Callable[[memoryview], int | None], data: np.ndarray) -> int:
    """Fill `data` from a raw file as far as it goes; the number of bytes read."""
    view = data.data
    done = 0
    while done < len(view) and (count := readinto(view[done:])):
        done += count
    return done


def decode(payload: np.ndarray, array: Array, codec: str, rows: int, path: Path) -> np.ndarray:
    """The first `rows` images of a chunk: (rows, …) of the array's dtype."""
    shape = array.chunk[array.axes.index("image") :]
    unpacker = compressor(codec, array.dtype.itemsize)
    if unpacker is not None:
        try:
            payload = np.frombuffer(unpacker.decode(payload), np.uint8)
        except (RuntimeError, ValueError) as error:
            raise CalexError(f"{path}: chunk cannot be decompressed ({error}); {REMEDY}") from None
    if payload.nbytes != array.chunk_bytes:
        raise CalexError(f"{path}: chunk holds {payload.nbytes} bytes where its shape needs {array.chunk_bytes}; {REMEDY}")
    return payload.view(array.dtype).reshape(shape)[:rows]


def sha256_of(path: Path) -> str:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
