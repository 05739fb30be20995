"""What image files say of themselves before they are decoded: sizes, and what is white in those of more than 8 bits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from calex.datasets._decoding import WHITES, Header, Unreadable, Whites, deep_kind, deep_range, read_header
from calex.datasets._filling import BATCH, NAMED, THREADS, refuse_unreadable
from calex.errors import CalexError, listed
from calex.system.progress import track

# The whites that files are made with: all bits of 8, 10, 12, 14 or 16, and 1 for fractions.
LADDER = {"integer": (255, 1023, 4095, 16383, 65535), "float": (1, 255, 1023, 4095, 16383, 65535)}


def check_headers(paths: Sequence[Path], white: float, max_pixels: int, label: str) -> tuple[Whites, list[str]]:
    """Check all headers; return the white of each kind of deep pixels, and warnings.

    white: what a config gives, 0 to measure it over all files. All files whose header cannot be read are one CalexError,
    all with more than `max_pixels` pixels another.
    """
    headers = _read(paths, label)
    large = [(path, header) for path, header in zip(paths, headers, strict=True) if header.width * header.height > max_pixels]
    if large:
        named = listed((f"{path} ({header.width}×{header.height})" for path, header in large), NAMED)
        least = max(header.width * header.height for _, header in large)
        raise CalexError(
            f"{len(large)} of {len(paths)} images have more than max_pixels = {max_pixels} pixels: {named}; make them smaller,"
            f" remove them, or set `max_pixels` to {least}, which takes up to {least * 5 / 1e9:.1f} GB for one image"
        )
    animated = [path for path, header in zip(paths, headers, strict=True) if header.animated]
    truncated = [path for path, header in zip(paths, headers, strict=True) if header.truncated_depth]
    warnings = [
        f"{what}: {len(files)} of {len(paths)} files, such as {files[0]}"
        for files, what in (
            (animated, "several images in a file, of which the first is taken"),
            (truncated, "16 bits a channel in colour, of which the upper 8 are read, so that values of 12 bits turn black"),
        )
        if files
    ]
    deep = defaultdict(list)
    for path, header in zip(paths, headers, strict=True):
        if kind := deep_kind(header.mode):
            deep[kind].append(path)
    whites = dict(WHITES)
    for kind, files in deep.items():
        whites[kind], warning = measured_white(files, kind, white, label)
        warnings += [warning] if warning else []
    return whites, warnings


def _read(paths: Sequence[Path], label: str) -> list[Header]:
    faults: list[Unreadable] = []

    def one(path: Path) -> Header | None:
        try:
            return read_header(path)
        except Unreadable as error:
            faults.append(error)
            return None

    starts = range(0, len(paths), BATCH)
    headers: list[Header | None] = []
    with ThreadPoolExecutor(THREADS) as pool:
        for start in track(starts, f"{label}: reading headers", len(starts), "images", BATCH):
            headers += pool.map(one, paths[start : start + BATCH])
    refuse_unreadable(sorted(faults, key=lambda error: error.where))
    return [header for header in headers if header is not None]


def measured_white(files: Sequence[Path], kind: str, white: float, label: str) -> tuple[float, str]:
    """Measure what is white in files with deep pixels of one kind; return it and a warning, or an empty one.

    It is the least white of the ladder that holds the brightest value of all files, if that value is more than half of it:
    another white would leave half of the range unused. Else whole numbers count as 16 bits, and fractions are refused.
    """
    if white:
        return white, ""
    starts = range(0, len(files), BATCH)
    low, high = float("inf"), float("-inf")
    faults: list[Unreadable] = []
    for start in track(starts, f"{label}: measuring what is white", len(starts), "images", BATCH):
        for file in files[start : start + BATCH]:
            try:
                least, most = deep_range(file)
            except Unreadable as error:
                faults.append(error)
                continue
            low, high = min(low, least), max(high, most)
    refuse_unreadable(faults)
    values = f"the values of {len(files)} files with {'floating-point' if kind == 'float' else '16-bit'} pixels run from {low:g} to {high:g}"
    if low < 0:
        raise CalexError(f"{label}: {values}, and nothing is darker than 0; convert them to 8 bits (such as {files[0]})")
    if high > LADDER[kind][-1]:
        raise CalexError(f"{label}: {values}, which no usual white fits; set `white` (such as {files[0]})")
    fitting = next(step for step in LADDER[kind] if high <= step)
    if high > fitting / 2:
        usual = fitting == WHITES.get(kind)
        return fitting, "" if usual else f"{values}: white is taken to be {fitting}; `white` sets another"
    if kind == "float":
        raise CalexError(f"{label}: {values}, which says nothing of what is white; set `white` (such as {files[0]})")
    return WHITES["integer"], f"{values}: white is taken to be 65535, and they are dark; `white` sets another"
