"""Progress that people can read in a terminal and in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def say(message: str) -> None:
    """One line for the person who watches."""
    print(message, file=sys.stderr, flush=True)


def warn(message: str) -> None:
    """One line about what is probably wrong; whatever a report shows of it stands in a record beside the step's output."""
    say(f"warning: {message}")


def track(
    items: Iterable[Item], label: str, total: int, unit: str = "it", scale: int = 1, every: float = 5.0
) -> Iterator[Item]:
    """Pass `items` through: a bar on a terminal; elsewhere (a pipe, a log) a line every few seconds.

    The end is the caller's to announce.

    `scale` is how many `unit`s one item holds, so that rates are in images and not in batches.
    """
    if sys.stderr.isatty():
        bar = tqdm(total=total * scale, desc=label, unit=unit, unit_scale=scale > 1, leave=False)
        with bar:
            for item in items:
                yield item
                bar.update(scale)
        return
    begun = last = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every and done < total:
            rate = done / (now - begun)
            say(f"{label}: {done}/{total} ({rate * scale:.3g} {unit}/s, {(total - done) / rate:.0f} s to go)")
            last = now
