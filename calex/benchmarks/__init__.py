"""One file a question of speed: `measure(folder, repeats, threads, device)` gives rows of ratios, each with its limit.

A ratio compares two things measured in turn in one run, so that it holds when the machine's speed drifts; the
median of the repeats is what counts. Absolute numbers beside them are for orientation only.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Row:
    """One ratio. limit: what it must not exceed (`at_most`) or must reach; detail: the absolute medians in words."""

    name: str
    ratio: float
    low: float
    high: float
    limit: float | None
    at_most: bool
    detail: str

    @property
    def met(self) -> bool | None:
        """Whether the limit is kept; None where there is none."""
        if self.limit is None:
            return None
        return self.ratio <= self.limit if self.at_most else self.ratio >= self.limit


def seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def in_turn(first: Callable[[], object], second: Callable[[], object], repeats: int) -> tuple[np.ndarray, np.ndarray]:
    """(repeats,) seconds of each, measured A B A B … after one uncounted round."""
    first()
    second()
    times = [(seconds(first), seconds(second)) for _ in range(repeats)]
    return np.array(times)[:, 0], np.array(times)[:, 1]


def row(name: str, over: np.ndarray, under: np.ndarray, limit: float | None, at_most: bool, detail: str) -> Row:
    """The ratio of two series of times, pair by pair: median, least and largest."""
    ratios = over / under
    return Row(name, float(np.median(ratios)), float(ratios.min()), float(ratios.max()), limit, at_most, detail)
