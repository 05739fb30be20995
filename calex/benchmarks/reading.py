"""What does a store cost that is read from disk in every epoch: beside `numpy.load`, and beside one held in memory?"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from calex.benchmarks import Bench, Row, in_turn, row
from calex.benchmarks._stores import CLASSES, TAP, layout_of, made
from calex.benchmarks.training import HEAD, RECIPE, TARGET
from calex.branches.branch import Branch
from calex.branches.fitting import TrainingJob
from calex.features.layout import amount
from calex.features.loader import Loader
from calex.features.store import Store
from calex.recipes import branchwise

IMAGES = 65_536  # 0.54 GB
LEAST_THROUGHPUT = 0.7
LIMIT = 1.25
STREAMED = 0  # bytes of memory that the loader may keep a store in
ARRAYS = ("tap0", "log_softmax")


def measure(bench: Bench) -> list[Row]:
    """Both of one store of branch 1's features, codec none with crc32c, the files in the system's page cache."""
    images = bench.scaled(IMAGES)
    bench.refuse_without_room(2 * layout_of(images).bytes)
    store = made(bench.folder, images)
    size = f"{images:,} images, {amount(layout_of(images).bytes)}"
    return [*throughput(bench, store, size), *(epochs(bench, store, batch, size) for batch in (128, 256))]


def throughput(bench: Bench, store: Store, size: str) -> list[Row]:
    """Reading it all, over `numpy.load` of the same arrays.

    The limit is about reading chunks. Copying them into shuffled batches is work that `numpy.load` leaves to others,
    and training waits for none of it while it has a core to spare: that number has no limit of its own.
    """
    files = [bench.folder / f"{name}.npy" for name in ARRAYS]
    for name, file in zip(ARRAYS, files, strict=True):
        np.save(file, store.whole(name))
    loader = Loader(store, [0], 256, seed=0, memory_budget=STREAMED)
    buffers = [np.empty(store.arrays[name].chunk_bytes, np.uint8) for name in ARRAYS]

    def plain() -> None:
        for file in files:
            np.load(file)

    def chunks() -> None:
        for number in np.random.default_rng(0).permutation(store.layout.chunks):
            for name, buffer in zip(ARRAYS, buffers, strict=True):
                store.chunk(name, 0, int(number), buffer)

    def batches() -> None:
        for _ in loader.epoch(0):
            pass

    rows = []
    cases = (("verified chunks in shuffled order", chunks, LEAST_THROUGHPUT), ("shuffled batches of 256", batches, None))
    for name, work, least in cases:
        loaded, streamed = in_turn(plain, work, bench.repeats)
        speed = store.layout.bytes / 1e6
        detail = f"{speed / np.median(streamed):,.0f} MB/s streamed, {speed / np.median(loaded):,.0f} MB/s loaded; {size}"
        rows.append(row(f"throughput of {name} / numpy.load", loaded, streamed, least, False, detail))
    return rows


def epochs(bench: Bench, store: Store, batch_size: int, size: str) -> Row:
    """An epoch of branch 1 from the streaming loader over one from the resident one."""
    streaming, resident = (
        Loader(store, [0], batch_size, seed=0, device=bench.device, memory_budget=budget) for budget in (STREAMED, 1 << 40)
    )
    slow, fast = in_turn(partial(epoch, streaming, bench), partial(epoch, resident, bench), bench.repeats)
    images = store.layout.images
    detail = f"{images / np.median(slow):,.0f} images/s streamed, {images / np.median(fast):,.0f} images/s resident; {size}"
    return row(f"streamed / resident epoch, branch 1, batches of {batch_size}", slow, fast, LIMIT, True, detail)


def epoch(loader: Loader, bench: Bench) -> None:
    """One epoch of a fresh branch, as `train-branch` trains it."""
    torch.manual_seed(0)
    branch = Branch(HEAD, TAP, CLASSES, shared_core=False)
    recipe = RECIPE | {"batch_size": loader.batch_size}
    branchwise.train(branch, TrainingJob(loader, TARGET, recipe, 0, bench.device, "branch 1"))
