"""The memory of a dataset's pixels: announced before it is needed, and compared with what there is."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from calex.errors import CalexError
from calex.system.progress import say

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]


def allocate(shape: tuple[int, int, int, int], label: str, remedy: str) -> np.ndarray:
    """Return an empty (N, H, W, C) uint8 array; its bytes are announced, and refused if this machine or job has fewer."""
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
    """Write a number of bytes for people."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"


def available() -> int | None:
    """Return the bytes that this process may still take; None where nothing tells.

    They are the machine's, those of its cgroup (a container, a cluster's job) or those of `ulimit -v`, whichever are fewest.
    """
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
    limits = []
    for folder in (Path("/sys/fs/cgroup") / group, *(Path("/sys/fs/cgroup") / group).parents):
        try:
            limits.append(int((folder / "memory.max").read_text(encoding="ascii")))
        except (OSError, ValueError):  # no such file, or `max`: no limit
            continue
    return min(limits, default=None)


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
