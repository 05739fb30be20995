"""Where a step computes: the device it was asked to use, its threads, and repeatable random numbers."""

from __future__ import annotations

import argparse
import platform
from pathlib import Path

import torch

from calex.errors import CalexError


def add_arguments(parser: argparse.ArgumentParser, threads: int = 2) -> None:
    parser.add_argument(
        "--device", default="auto", help="auto (a GPU where there is one), cpu, mps, cuda or cuda:N (default: auto)"
    )
    parser.add_argument(
        "--threads", type=int, default=threads, help=f"CPU threads, part of the result to the bit (default: {threads})"
    )


def claim(device: str, threads: int) -> torch.device:
    """The device, with torch's CPU threads set. A GPU that was asked for and is not there is an error."""
    torch.set_num_threads(threads)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise CalexError(f"device: '{device}' is not a device; use auto, cpu, mps, cuda or cuda:N") from None
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise CalexError(f"device: '{device}' was asked for, but torch finds no Apple GPU; use device: auto or cpu")
    if chosen.type == "cuda" and (not torch.cuda.is_available() or (chosen.index or 0) >= torch.cuda.device_count()):
        raise CalexError(
            f"device: '{device}' was asked for, but torch sees {torch.cuda.device_count()} GPUs; use device: auto or cpu"
        )
    return chosen


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
