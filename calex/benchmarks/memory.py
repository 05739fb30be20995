"""How much memory does an epoch need that streams its features, and does a larger store need more of it?"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from calex.benchmarks import Bench, Row, Skipped, row
from calex.benchmarks._stores import CLASSES, TAP, layout_of, made
from calex.benchmarks.training import HEAD, RECIPE, TARGET
from calex.branches.branch import Branch
from calex.branches.fitting import TrainingJob
from calex.features.layout import amount
from calex.features.loader import Batch, Loader
from calex.features.store import open_store
from calex.recipes import branchwise
from calex.system import devices

IMAGES = (262_144, 1_048_576)  # 2.2 and 8.6 GB
LIMIT = 1e9  # bytes
GROWTH = 1.1
BATCH = 256
TRAINED = 64  # one batch in so many trains the branch; all are read
STATUS = Path("/proc/self/status")


def measure(bench: Bench) -> list[Row]:
    """The peaks of two stores, each streamed by a process of its own, over the limit and over one another."""
    if not STATUS.exists():
        raise Skipped("anonymous memory is read from Linux's /proc/self/status, which this system lacks")
    peaks, sizes = [], []
    for images in map(bench.scaled, IMAGES):
        folder = bench.folder / str(images)
        sizes.append(layout_of(images).bytes)
        bench.refuse_without_room(sizes[-1])
        made(folder, images)
        peaks.append(np.array([own_process(folder, bench) for _ in range(bench.repeats)]))
        shutil.rmtree(folder)
    small, large = map(amount, sizes)
    detail = " and ".join(
        f"{amount(float(np.median(peak)))} for a store of {size}" for peak, size in zip(peaks, (small, large), strict=True)
    )
    return [
        row(f"peak memory of an epoch that streams {large} / 1 GB", peaks[1], np.array(LIMIT), 1.0, True, detail),
        row(f"peak memory, store of {large} / store of {small}", peaks[1], peaks[0], GROWTH, True, detail),
    ]


def own_process(folder: Path, bench: Bench) -> float:
    """`peak` in a fresh interpreter, so that nothing else is in the number but Python and torch themselves."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(peak, folder, bench.threads, str(bench.device)).result()


def peak(folder: Path, threads: int, device: str) -> float:
    """Bytes: the most anonymous memory of this process, looked at every few milliseconds while an epoch streams."""
    devices.claim(device, threads)
    readings, done = [anonymous()], threading.Event()

    def watch() -> None:
        while not done.wait(0.005):
            readings.append(anonymous())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        store = open_store(folder, "train")
        loader = Loader(store, [0], BATCH, seed=0, device=device, memory_budget=0)
        branch = Branch(HEAD, TAP, CLASSES, shared_core=False)
        branchwise.train(branch, TrainingJob(Thinned(loader), TARGET, RECIPE, 0, torch.device(device), "branch 1"))
    finally:
        done.set()
        watcher.join()
    return max(readings)


class Thinned:
    """A loader of which every batch is read and a few are trained on: memory is the question, not time."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return -(-len(self.loader) // TRAINED)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Yield every TRAINED-th batch of the loader's epoch; the others are read and dropped."""
        return islice(self.loader.epoch(number), 0, None, TRAINED)


def anonymous() -> float:
    """Bytes of this process that are no file's: not the page cache, which the system takes back at will."""
    line = next(line for line in STATUS.read_text(encoding="utf-8").splitlines() if line.startswith("RssAnon"))
    return 1024.0 * int(line.split()[1])
