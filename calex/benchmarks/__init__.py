"""One file a question of speed: `measure(bench)` gives rows of ratios, each with its limit.

A ratio compares two things measured in turn in one run, so that it holds when the machine's speed drifts; the
median of the repeats is what counts. Absolute numbers beside them are for orientation only.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from calex.errors import CalexError
from calex.features.layout import amount

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Bench:
    """Where and how to measure.

    folder: an empty one, for stores. scale: share of the usual number of images; limits are meant for 1, less only shows
    that everything runs.
    """

    folder: Path
    repeats: int
    threads: int
    device: torch.device
    scale: float = 1.0

    def scaled(self, count: int) -> int:
        """So many images, fewer in a short run, but enough for a batch."""
        return max(8, round(count * self.scale))

    def refuse_without_room(self, size: int) -> None:
        """Raise CalexError if the disk has less room than `size` bytes."""
        free = shutil.disk_usage(self.folder).free
        if size > free:
            raise CalexError(
                f"{self.folder.parent}: the benchmark's stores need {amount(size)} and the disk has {amount(free)}; "
                "name another --folder, or a smaller --scale"
            )


class Skipped(Exception):
    """Why a question cannot be asked on this machine, in one line."""


@dataclass(frozen=True)
class Row:
    """One ratio. limit: what it must not exceed (`at_most`) or must reach; detail: the absolute medians in words.

    facts: what other tables compute with, such as a rate and what it is the rate of.
    """

    name: str
    ratio: float
    low: float
    high: float
    limit: float | None
    at_most: bool
    detail: str
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None where there is none."""
        if self.limit is None:
            return None
        return self.ratio <= self.limit if self.at_most else self.ratio >= self.limit


def seconds(work: Callable[[], object]) -> float:
    """The wall time of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """(repeats,) seconds of each, measured A B A B … after one uncounted round."""
    first()
    second()
    times = [(seconds(first), seconds(second)) for _ in range(repeats)]
    return np.array(times)[:, 0], np.array(times)[:, 1]


def row(
    name: str,
    over: np.ndarray,
    under: np.ndarray,
    limit: float | None,
    at_most: bool,
    detail: str,
    facts: dict[str, Any] | None = None,
) -> Row:
    """The ratio of two series of times, pair by pair: median, least and largest."""
    ratios = over / under
    return Row(name, float(np.median(ratios)), float(ratios.min()), float(ratios.max()), limit, at_most, detail, facts or {})
