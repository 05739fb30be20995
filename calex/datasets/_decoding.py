"""One image file of any kind, decoded to uint8 pixels of one size."""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from calex.datasets._signatures import content_of
from calex.errors import CalexError

# What Pillow raises for files that are cut off, damaged, or no images at all.
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError)

# The value that is white, by the kind of deep pixels: those of more than 8 bits.
Whites = Mapping[str, float]
WHITES: Whites = {"integer": 65535}

# Images of more pixels are decoded one at a time and reduced in strips, so that one is in memory only once.
LARGE = 16_000_000
STRIP = 1_000_000  # pixels
_one_large = threading.Lock()

ORIENTATION = 0x0112  # the EXIF tag


class Unreadable(CalexError):
    """An image file that is damaged or does not fit; one error may list several."""

    def __init__(self, where: str, reason: str) -> None:
        super().__init__(f"{where}: {reason}; replace or remove it")
        self.where, self.reason = where, reason


@dataclass(frozen=True, slots=True)
class Header:
    """The properties of an image file that are read without decoding it."""

    width: int
    height: int
    mode: str
    animated: bool
    truncated_depth: bool  # a colour image with 16 bits per channel, of which Pillow keeps 8


def deep_kind(mode: str) -> str | None:
    """Return the entry of `Whites` that holds the white of a Pillow mode; None for pixels of 8 bits."""
    if mode == "F":
        return "float"
    return "integer" if mode == "I" or mode.startswith("I;16") else None


@contextmanager
def _opened(where: str, file: Path | IO[bytes]) -> Iterator[Image.Image]:
    """Open an image without reading its pixels; whatever Pillow raises for damaged content becomes one line.

    Pillow is given no path: it would map an uncompressed TIFF into memory, and scramble one whose EXIF data ask for a rotation.
    """
    try:
        with open(file, "rb") if isinstance(file, Path) else nullcontext(file) as handle, Image.open(handle) as image:
            yield image
    except (FileNotFoundError, CalexError):
        raise
    except MemoryError:
        raise CalexError(f"{where}: not enough memory to decode it; lower `max_pixels` or make it smaller") from None
    except UNREADABLE as error:
        content = content_of(file)
        reason = " ".join(str(error).split()) if content is None else f"it is {content}"
        raise Unreadable(where, f"not a readable image ({reason})") from None


_changing_limit = threading.Lock()
_lifted: list[int | None] = []  # Pillow's limit as it was, once for each block that runs


@contextmanager
def any_size() -> Iterator[None]:
    """Lift Pillow's own limit on pixels inside the block: sizes are checked here, for all files, before decoding.

    The limit is one for the whole process: it comes back when the last of several threads has left its block.
    """
    with _changing_limit:
        _lifted.append(_lifted[0] if _lifted else Image.MAX_IMAGE_PIXELS)
        Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        with _changing_limit:
            limit = _lifted.pop()
            if not _lifted:
                Image.MAX_IMAGE_PIXELS = limit


def read_header(file: Path) -> Header:
    """Read size, mode and frames of an image file, without decoding it."""
    with _opened(str(file), file) as opened:
        animated = opened.format in ("GIF", "PNG", "WEBP", "TIFF", "AVIF") and bool(getattr(opened, "is_animated", False))
        raw = [part for tile in getattr(opened, "tile", []) for part in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
        wide = any(isinstance(part, str) and ";16" in part for part in raw) and not deep_kind(opened.mode)
        return Header(opened.width, opened.height, opened.mode, animated, wide)


def deep_range(file: Path) -> tuple[float, float]:
    """Return the least and the greatest value of an image with deep pixels."""
    with _opened(str(file), file) as opened:
        low, high = opened.getextrema() if opened.mode in ("I", "F") else _extrema(np.asarray(opened))
    if not np.isfinite([low, high]).all():
        raise Unreadable(str(file), "holds values that are not finite")
    return float(low), float(high)  # type: ignore[arg-type]


def _extrema(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def decode(
    file: Path | IO[bytes],
    where: str,
    size: int | None = None,
    fit: str = "exact",
    grey: bool = False,
    whites: Whites = WHITES,
) -> np.ndarray:
    """Decode one image to (H, W, 3) uint8, or (H, W, 1) if `grey`; `where` names it in errors.

    fit: `crop` takes the middle square, `stretch` the whole image, each resized to `size`; `exact` requires
    this size. Photographs are rotated as their EXIF data say; of an animation the first frame is taken.
    """
    with _opened(where, file) as opened:
        if fit == "exact" or size is None:
            if size is not None and opened.size != (size, size):
                raise Unreadable(where, f"{opened.width}×{opened.height} pixels, expected {size}×{size}")
            image = to_8_bits(opened, where, whites)
        else:
            opened.draft(None, (2 * size, 2 * size))  # large JPEGs decode at a fraction of their size
            large = opened.width * opened.height > LARGE
            with _one_large if large else nullcontext():
                shrink = min(opened.size) // (2 * size)
                if large and shrink > 1:
                    image = ImageOps.exif_transpose(reduce(opened, where, whites, shrink))
                else:
                    image = to_8_bits(ImageOps.exif_transpose(opened), where, whites)
                if fit == "crop":
                    image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
                else:
                    image = image.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image.convert("L") if grey else image.convert("RGB"))
    return pixels[..., None] if grey else pixels


def reduce(image: Image.Image, where: str, whites: Whites, factor: int) -> Image.Image:
    """Average each `factor` × `factor` pixels, strip by strip."""
    image.load()  # this rotates a TIFF, but no other format
    orientation = image.getexif().get(ORIENTATION)
    rows = factor * max(1, STRIP // (image.width * factor))
    strips = [
        to_8_bits(image.crop((0, top, image.width, min(top + rows, image.height))), where, whites).reduce(factor)
        for top in range(0, image.height, rows)
    ]
    whole = Image.new(strips[0].mode, (strips[0].width, sum(strip.height for strip in strips)))
    top = 0
    for strip in strips:
        whole.paste(strip, (0, top))
        top += strip.height
    if orientation is not None:
        whole.getexif()[ORIENTATION] = orientation
    return whole


def to_8_bits(image: Image.Image, where: str, whites: Whites = WHITES) -> Image.Image:
    """Convert any mode to 8-bit RGB or grey.

    Palettes are resolved, deep pixels are scaled by their white, and transparent images are put on a white background.
    """
    kind = deep_kind(image.mode)
    if kind is not None:
        deep = np.asarray(image)
        if kind not in whites:
            raise Unreadable(where, "floating-point pixels have no fixed white; set `white` or convert it to 8 bits")
        white = whites[kind]
        if not 0 <= deep.min() <= deep.max() <= white:
            raise Unreadable(where, f"grey values from {deep.min():g} to {deep.max():g} do not fit 0 to {white:g}; set `white`")
        if kind == "integer" and white == int(white):
            white = int(white)
            return Image.fromarray(((deep.astype(np.int64) * 255 + white // 2) // white).astype(np.uint8))
        return Image.fromarray(np.rint(deep.astype(np.float64) * (255 / white)).astype(np.uint8))
    if image.has_transparency_data:
        coloured = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")
