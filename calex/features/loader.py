"""Batches of cached features for training: resident where they fit, else streamed, the same in either way.

An *item* is one image in one view. In epoch e the images of chunk n are shown in view (e + n) mod V: every image once
an epoch, every view of it once in V epochs, and whole chunks are all that is ever read.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calex.features.store import Store

POOL_BYTES = 96 << 20


@dataclass
class Batch:
    """B images. Taps keep the stored dtype (float16 or float32): cast them where they are used.

    taps: (B, C, H, W) each; log_softmax: (B, K) float32; labels: (B,) int64; view: (B,) int64;
    position: (B,) int64, the image's row in the store, to pick its weight with.
    """

    taps: list[Tensor]
    log_softmax: Tensor
    labels: Tensor
    position: Tensor
    view: Tensor


class Loader:
    """Shuffled epochs and ordered passes over some taps of a store.

    taps: numbers of the taps wanted. memory_budget: bytes that all views of these taps may take to be kept in
    memory (on `device`); what is larger is streamed: whole chunks in shuffled order, read ahead by a thread, shuffled
    within a pool of several chunks. Stored order is itself shuffled, so that such batches are random ones.
    The order of a (seed, epoch) is the same on every machine; resident and streamed orders differ.
    """

    def __init__(
        self,
        store: Store,
        taps: Sequence[int],
        batch_size: int,
        seed: int,
        device: str | torch.device = "cpu",
        memory_budget: int = 2 << 30,
        drop_last: bool = False,
        pool_bytes: int = POOL_BYTES,
    ):
        self.store, self.names, self.batch_size, self.seed = store, [f"tap{k}" for k in taps], batch_size, seed
        self.device, self.drop_last = torch.device(device), drop_last
        arrays = [store.arrays[name] for name in [*self.names, "log_softmax"]]
        self.bytes = sum(store.layout.views * store.layout.chunks * array.chunk_bytes for array in arrays)
        self.resident = self.bytes <= memory_budget
        self.pool_chunks = max(2, pool_bytes // sum(array.chunk_bytes for array in arrays))
        self.labels = torch.from_numpy(store.labels).to(self.device)
        if self.resident:
            self.whole = [torch.from_numpy(store.whole(name)).to(self.device) for name in [*self.names, "log_softmax"]]

    def __len__(self) -> int:
        """Batches an epoch."""
        images = self.store.layout.images
        return images // self.batch_size if self.drop_last else -(-images // self.batch_size)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Every image once, shuffled; the same for the same (seed, number)."""
        rng = np.random.default_rng([self.seed, number])
        if self.resident:
            positions = rng.permutation(self.store.layout.images)
            views = (number + positions // self.store.layout.rows) % self.store.layout.views
            yield from self._resident(views, positions, self.drop_last)
            return
        order = rng.permutation(self.store.layout.chunks)
        chunks = [((number + int(n)) % self.store.layout.views, int(n)) for n in order]
        yield from self._streamed(chunks, rng, self.drop_last)

    def ordered(self, view: int = 0) -> Iterator[Batch]:
        """Every image in stored order, the last batch maybe smaller, whatever `drop_last` says."""
        if self.resident:
            positions = np.arange(self.store.layout.images)
            yield from self._resident(np.full_like(positions, view), positions, False)
            return
        yield from self._streamed([(view, n) for n in range(self.store.layout.chunks)], None, False)

    def _resident(self, views: np.ndarray, positions: np.ndarray, drop_last: bool) -> Iterator[Batch]:
        for view, position in batches(views, positions, self.batch_size, drop_last):
            view, position = view.to(self.device), position.to(self.device)
            *taps, log_softmax = [whole[view, position] for whole in self.whole]
            yield Batch(taps, log_softmax, self.labels[position], position, view)

    def _streamed(self, chunks: list[tuple[int, int]], rng: np.random.Generator | None, drop_last: bool) -> Iterator[Batch]:
        kept: list[Tensor] = []
        pools = [chunks[i : i + self.pool_chunks] for i in range(0, len(chunks), self.pool_chunks)]
        for last, pool in marking_last(ahead((self._read(pool) for pool in pools), 1)):
            pool = [torch.cat(pair) for pair in zip(kept, pool, strict=True)] if kept else pool
            count = len(pool[0])
            order = torch.arange(count) if rng is None else torch.from_numpy(rng.permutation(count))
            whole = count if last and not drop_last else count - count % self.batch_size
            for start in range(0, whole, self.batch_size):
                chosen = order[start : start + self.batch_size]
                *taps, log_softmax, position, view = [part[chosen].to(self.device) for part in pool]
                yield Batch(taps, log_softmax, self.labels[position], position, view)
            kept = [part[order[whole:]] for part in pool]

    def _read(self, chunks: list[tuple[int, int]]) -> list[Tensor]:
        """Taps, log-softmaxes, positions and views of some chunks, one after the other."""
        parts: list[Tensor] = []
        for name in [*self.names, "log_softmax"]:
            parts.append(torch.from_numpy(np.concatenate([self.store.chunk(name, view, n) for view, n in chunks])))
        bounds = [self.store.layout.bounds(n) for _, n in chunks]
        position = np.concatenate([np.arange(start, stop) for start, stop in bounds])
        view = np.concatenate([np.full(stop - start, v) for (v, _), (start, stop) in zip(chunks, bounds, strict=True)])
        return [*parts, torch.from_numpy(position), torch.from_numpy(view)]


def batches(views: np.ndarray, positions: np.ndarray, size: int, drop_last: bool) -> Iterator[tuple[Tensor, Tensor]]:
    stop = len(positions) - len(positions) % size if drop_last else len(positions)
    for start in range(0, stop, size):
        end = min(start + size, stop)
        yield torch.from_numpy(views[start:end]), torch.from_numpy(positions[start:end])


def marking_last(items: Iterator[list[Tensor]]) -> Iterator[tuple[bool, list[Tensor]]]:
    """Each item with whether it is the last."""
    held = next(items, None)
    while held is not None:
        following = next(items, None)
        yield following is None, held
        held = following


def ahead(items: Iterator[list[Tensor]], depth: int) -> Iterator[list[Tensor]]:
    """Run an iterator in a thread, `depth` items ahead; its errors come out here."""
    ready: queue.Queue[list[Tensor] | BaseException | None] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: list[Tensor] | BaseException | None) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put(item):
                    return
            put(None)
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
