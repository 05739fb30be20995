"""The array of a dataset's pixels: its memory, announced before it is needed, and many images decoded into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np

from calex.datasets._decoding import Unreadable
from calex.errors import CalexError, listed
from calex.progress import say, track

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

Source = TypeVar("Source")

BATCH = 1000  # images between two signs of life; no more of their files than this wait in memory
THREADS = min(4, os.cpu_count() or 1)  # pay for photographs, whose decoding lets go of Python's lock
NAMED = 10  # files that an error about many names


def allocate(shape: tuple[int, int, int, int], label: str, remedy: str) -> np.ndarray:
    """An empty (N, H, W, C) uint8 array; its bytes are announced, and refused if this machine or job has fewer."""
    count, height, width, channels = shape
    needed, there = count * height * width * channels, available()
    form = f"{count} images of {height}×{width}×{channels} take {size_of(needed)} of memory"
    say(f"{label}: {form}" + ("" if there is None else f", of {size_of(there)} that are free"))
    try:
        if there is not None and needed > there:
            raise MemoryError
        return np.empty(shape, np.uint8)
    except MemoryError:
        raise CalexError(f"{label}: {form}, more than there is; {remedy}") from None


def size_of(number: float) -> str:
    """A number of bytes for people."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def available() -> int | None:
    """Bytes that this process may still take: the machine's, those of its cgroup (a container, a cluster's job) and
    `ulimit -v`, whichever are fewest. None where nothing tells."""
    limits = [_free_memory(), _cgroup_limit(), _address_space()]
    return min((limit for limit in limits if limit is not None), default=None)


def _free_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        entries = {name: int(value.split()[0]) * 1024 for name, value in (line.split(":") for line in lines)}
        return entries["MemAvailable"] + entries.get("SwapFree", 0)
    except (OSError, ValueError, KeyError, IndexError):
        pass
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _cgroup_limit() -> int | None:
    try:
        group = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()[-1].split(":", 2)[2].lstrip("/")
    except (OSError, IndexError):
        return None
    found = []
    for folder in (Path("/sys/fs/cgroup") / group, *(Path("/sys/fs/cgroup") / group).parents):
        try:
            found.append(int((folder / "memory.max").read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or `max`: no limit
            continue
    return min(found, default=None)


def _address_space() -> int | None:
    if resource is None:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        used = 0
    return max(limit - used, 0)


def fill(
    pixels: np.ndarray,
    sources: Iterable[tuple[int, Source]],
    decode: Callable[[Source], np.ndarray],
    label: str,
    threads: int = 1,
) -> None:
    """pixels[position] = decode(source) for each (position, source); (N, H, W, C) uint8, one copy and no more.

    All images that cannot be read are one error, after the last of them.
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
    """One error of all the files that cannot be read, if there are any."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        reasons = listed((f"{error.where}: {error.reason}" for error in errors), NAMED)
        raise CalexError(f"{len(errors)} image files cannot be read: {reasons}; replace or remove them")
