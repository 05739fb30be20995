"""Image files of any kind, decoded to uint8 pixels of one size."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
from PIL import Image, ImageOps

from calex.errors import CalexError
from calex.progress import track

Source = TypeVar("Source")

# What Pillow raises for files that are cut off, damaged, or no images at all.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)
BATCH = 1000  # images between two signs of life; no more of their files than this wait in memory
THREADS = min(4, os.cpu_count() or 1)  # pay for photographs, whose decoding lets go of Python's lock


def fill(
    pixels: np.ndarray,
    sources: Iterable[tuple[int, Source]],
    decode: Callable[[Source], np.ndarray],
    label: str,
    threads: int = 1,
) -> None:
    """pixels[position] = decode(source) for each (position, source); (N, H, W, C) uint8, one copy and no more."""

    def one(item: tuple[int, Source]) -> None:
        position, source = item
        pixels[position] = decode(source)

    waiting = iter(sources)
    batches = iter(lambda: list(islice(waiting, BATCH)), [])
    with ThreadPoolExecutor(threads) as pool:
        run = pool.map if threads > 1 else map
        for batch in track(batches, f"{label}: decoding", -(-len(pixels) // BATCH), "images", BATCH):
            for _ in run(one, batch):
                pass


def decoded(file: Path | IO[bytes], where: str, size: int | None = None, fit: str = "exact", grey: bool = False) -> np.ndarray:
    """One image as (H, W, 3) uint8, or (H, W, 1) if `grey`; `where` names it in errors.

    fit: `crop` takes the middle square, `stretch` the whole image, each resized to `size`; `exact` demands that
    it has this size already. Photographs are turned upright as their EXIF says.
    """
    try:
        with Image.open(file) as opened:
            if fit != "exact" and size is not None:
                opened.draft(None, (2 * size, 2 * size))  # large JPEGs decode at a fraction of their size
                image = ImageOps.exif_transpose(opened)
            else:
                image = opened
            image = plain(image, where)
    except FileNotFoundError:
        raise
    except UNREADABLE as error:
        raise CalexError(f"{where}: not a readable image ({' '.join(str(error).split())}); replace or remove it") from None
    if size is not None:
        if fit == "crop":
            image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
        elif fit == "stretch":
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        elif image.size != (size, size):
            raise CalexError(f"{where}: {image.width}×{image.height} pixels, expected {size}×{size}; replace or remove it")
    pixels = np.asarray(image.convert("L") if grey else image.convert("RGB"))
    return pixels[..., None] if grey else pixels


def plain(image: Image.Image, where: str) -> Image.Image:
    """8-bit RGB or grey of any mode: palettes looked up, 16 bits scaled to 8, what is transparent laid over white."""
    if image.mode == "I" or image.mode.startswith("I;16"):
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65535:
            raise CalexError(f"{where}: grey values from {deep.min()} to {deep.max()} do not fit 16 bits; convert it to 8 bits")
        return Image.fromarray(((deep * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode == "F":
        raise CalexError(f"{where}: floating-point pixels have no fixed white; convert it to 8 bits")
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
