"""Decode many images into one array; one error lists all files that cannot be read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np

from calex.datasets._decoding import Unreadable
from calex.errors import CalexError, listed
from calex.system.progress import track

Source = TypeVar("Source")

BATCH = 1000  # images between two progress messages; at most so many files wait in memory
THREADS = min(4, os.cpu_count() or 1)  # useful for photographs, whose decoding releases Python's global lock
NAMED = 10  # at most so many files are named in one error


def fill(
    pixels: np.ndarray,
    sources: Iterable[tuple[int, Source]],
    decode: Callable[[Source], np.ndarray],
    label: str,
    threads: int = 1,
) -> None:
    """Set pixels[position] = decode(source) for each (position, source); pixels: (N, H, W, C) uint8, never copied.

    Raises one CalexError for all images that cannot be read, after the last image.
    """
    faults: list[tuple[int, Unreadable]] = []

    def one(item: tuple[int, Source]) -> None:
        position, source = item
        try:
            pixels[position] = decode(source)
        except Unreadable as error:
            faults.append((position, error))

    waiting = iter(sources)
    batches = iter(lambda: list(islice(waiting, BATCH)), [])
    with ThreadPoolExecutor(threads) as pool:
        run = pool.map if threads > 1 else map
        for batch in track(batches, f"{label}: decoding", -(-len(pixels) // BATCH), "images", BATCH):
            for _ in run(one, batch):
                pass
    refuse_unreadable([error for _, error in sorted(faults, key=lambda fault: fault[0])])


def refuse_unreadable(errors: list[Unreadable]) -> None:
    """Raise one error for all files that cannot be read, if there are any."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        reasons = listed((f"{error.where}: {error.reason}" for error in errors), NAMED)
        raise CalexError(f"{len(errors)} image files cannot be read: {reasons}; replace or remove them")
