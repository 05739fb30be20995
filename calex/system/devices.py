"""Where a step computes: the device it was asked to use, its threads, and repeatable random numbers."""

from __future__ import annotations

import argparse
import ctypes
import os
import platform
from contextlib import suppress
from pathlib import Path

import torch

from calex.errors import CalexError
from calex.system.progress import say

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def add_arguments(parser: argparse.ArgumentParser, threads: int = 2) -> None:
    """Give a step's parser `--device` and `--threads`, which `claim` takes."""
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, mps, cuda or cuda:N (default: auto)"
    )
    parser.add_argument(
        "--threads", type=int, default=threads, help=f"CPU threads, part of the result to the bit (default: {threads})"
    )


def claim(device: str, threads: int) -> torch.device:
    """The device, with torch's CPU threads set. A GPU that was asked for and is not there is an error."""
    if threads < 1:
        raise CalexError(f"--threads: {threads} is less than 1")
    keep_memory()
    torch.set_num_threads(allowed(threads))
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        chosen = None
    if chosen is None or chosen.type not in ("cpu", "mps", "cuda"):
        raise CalexError(f"device: '{device}' is not a device; use auto, cpu, mps, cuda or cuda:N") from None
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise CalexError(f"device: '{device}' was asked for, but torch finds no Apple GPU; use device: auto or cpu")
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise CalexError(
            f"device: '{device}' was asked for, but torch sees {torch.cuda.device_count()} GPUs; use device: auto or cpu"
        )
    return chosen


def allowed(threads: int) -> int:
    """As many threads as OpenMP starts: with fewer than torch counts on, barriers in oneDNN's kernels wait for ever."""
    limit = os.environ.get("OMP_THREAD_LIMIT", "").strip()
    if not limit.isdecimal() or not 0 < int(limit) < threads:
        return threads
    say(f"warning: OMP_THREAD_LIMIT={limit} allows {limit} of {threads} threads, and results depend on them; unset it")
    return int(limit)


def keep_memory() -> None:
    """Have freed memory used again instead of given back: what a batch frees, the next one needs.

    glibc hands blocks of more than some hundred kB back to the system at once, and to get them again costs a page fault
    every 4 kB: a third of the time of an epoch from the cache. Where there is no glibc nothing happens.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        # Some versions take no more than 32 MB here; where neither is taken, the other must stay as it is.
        if any(mallopt(M_MMAP_THRESHOLD, size) for size in (1 << 30, 32 << 20)):
            mallopt(M_TRIM_THRESHOLD, 1 << 30)


def describe(device: torch.device) -> str:
    """The hardware's own name: the GPU's or the CPU's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()


def processor() -> str:
    """The CPU's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
