"""Batches of cached features for training: resident where they fit, else streamed.

In epoch e the images of chunk n are shown in view (e + n) mod V: every image once per epoch, every view of it once in
V epochs, and only complete chunks are read.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from calex.features.pools import Blocks, OnDevice, Pool
from calex.features.prefetch import prefetch
from calex.features.store import Store

POOL_BYTES = 64 << 20
POOLS = 3  # one that batches are drawn from, one that waits, one that is being read


@dataclass
class Batch:
    """B images, in the order in which they are stored. Taps keep the stored dtype: cast them where they are used.

    taps: (B, C, H, W) each, float16 or float32; log_softmax: (B, K) float32; labels: (B,) int64; view: (B,) int64;
    position: (B,) int64, the image's row in the store, to pick its weight with.
    """

    taps: list[Tensor]
    log_softmax: Tensor
    labels: Tensor
    position: Tensor
    view: Tensor

    def __len__(self) -> int:
        return len(self.position)


class Loader:
    """Shuffled epochs and ordered passes over some taps of a store.

    taps: numbers of the taps wanted. batch_size: images; an epoch's last batch may be smaller.
    memory_budget: bytes. If all views of these taps fit, they are resident: on the GPU where they fit there too;
    on the CPU as mapped chunk files (codec none), pages that all jobs of a machine share. What is larger is
    streamed: whole chunks in shuffled order, read ahead by a thread and shuffled within pools of several chunks.
    Stored order is itself shuffled, so these are random batches. Every chunk is verified once when it is read.
    The same (seed, epoch) gives the same batches on every machine and device; resident and streamed ones differ.
    """

    def __init__(
        self,
        store: Store,
        taps: Sequence[int],
        batch_size: int,
        seed: int,
        device: str | torch.device = "cpu",
        memory_budget: int = 2 << 30,
        pool_bytes: int = POOL_BYTES,
    ):
        self.store, self.names = store, [*(f"tap{k}" for k in taps), "log_softmax"]
        self.batch_size, self.seed, self.device = batch_size, seed, torch.device(device)
        self.labels = torch.from_numpy(store.labels).to(self.device)
        group = sum(store.arrays[name].chunk_bytes for name in self.names)
        self.pool_chunks = max(2, pool_bytes // group)
        self.bytes = store.layout.views * store.layout.chunks * group
        self.resident: Pool | None = None
        self.spare: list[list[list[np.ndarray]]] = []  # buffers of streams that have ended
        if self.bytes <= memory_budget:
            chunks = list(itertools.product(range(store.layout.views), range(store.layout.chunks)))
            blocks = Blocks([[store.mapped(name, *chunk) for chunk in chunks] for name in self.names], store, chunks)
            on_gpu = self.device.type == "cuda" and 1.1 * self.bytes < torch.cuda.mem_get_info(self.device)[0]
            self.resident = OnDevice(blocks, self.device) if on_gpu else blocks

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-self.store.layout.images // self.batch_size)

    def epoch(self, number: int, weights: np.ndarray | None = None) -> Iterator[Batch]:
        """Every image once, shuffled; the same for the same (seed, number).

        With weights (V, N) as many images are drawn in proportion to them: one of weight w comes w times, rounded
        down or up by chance (`systematic_resample`).
        """
        rng = np.random.default_rng([self.seed, number])
        layout = self.store.layout
        if self.resident is not None:
            position = rng.permutation(layout.images)
            if weights is not None:
                of_views = weights[(number + np.arange(layout.images) // layout.rows) % layout.views, np.arange(layout.images)]
                position = rng.permutation(np.repeat(np.arange(layout.images), next(systematic_resample([of_views], rng))))
            view = (number + position // layout.rows) % layout.views
            yield from self._draw([self.resident], [view * layout.images + position])
            return
        groups = self._groups([((number + int(n)) % layout.views, int(n)) for n in rng.permutation(layout.chunks)])
        sizes = [sum(self.store.layout.rows_in(n) for _, n in group) for group in groups]
        if weights is None:
            orders = (rng.permutation(size) for size in sizes)
        else:
            pools = [np.concatenate([weights[view, slice(*layout.bounds(n))] for view, n in group]) for group in groups]
            counts = systematic_resample(pools, np.random.default_rng([self.seed, number, 1]))
            orders = (rng.permutation(np.repeat(np.arange(size), each)) for size, each in zip(sizes, counts, strict=True))
        yield from self._stream(groups, orders)

    def ordered(self, view: int = 0) -> Iterator[Batch]:
        """Every image in stored order."""
        layout = self.store.layout
        if self.resident is not None:
            yield from self._draw([self.resident], [view * layout.images + np.arange(layout.images)])
            return
        groups = self._groups([(view, n) for n in range(layout.chunks)])
        orders = (np.arange(sum(self.store.layout.rows_in(n) for _, n in group)) for group in groups)
        yield from self._stream(groups, orders)

    def _groups(self, chunks: list[tuple[int, int]]) -> list[list[tuple[int, int]]]:
        """The chunks, (view, number) each, that are read as one pool.

        The last of a store may be padded, and in a pool nothing comes after that.
        """
        groups = [chunks[start : start + self.pool_chunks] for start in range(0, len(chunks), self.pool_chunks)]
        return [sorted(group, key=lambda chunk: chunk[1] == self.store.layout.chunks - 1) for group in groups]

    def _stream(self, groups: list[list[tuple[int, int]]], orders: Iterable[np.ndarray]) -> Iterator[Batch]:
        # Kept from epoch to epoch: fresh memory costs more to touch than a chunk does to read.
        slots = self.spare.pop() if self.spare else [self._buffers(len(groups[0])) for _ in range(POOLS)]
        pools = prefetch(
            (self._read(group, slot) for group, slot in zip(groups, itertools.cycle(slots), strict=False)), POOLS - 2
        )
        try:
            yield from self._draw(pools, orders)
        finally:
            pools.close()
            self.spare.append(slots)

    def _buffers(self, chunks: int) -> list[np.ndarray]:
        return [np.empty(chunks * self.store.arrays[name].chunk_bytes, np.uint8) for name in self.names]

    def _read(self, chunks: list[tuple[int, int]], buffers: list[np.ndarray]) -> Blocks:
        """Chunks one behind the other in each buffer, so that a batch is one copy per array and not one per chunk."""
        images = sum(self.store.layout.rows_in(n) for _, n in chunks)
        blocks = []
        for name, buffer in zip(self.names, buffers, strict=True):
            array = self.store.arrays[name]
            for chunk, output in zip(chunks, buffer.reshape(-1, array.chunk_bytes), strict=False):
                self.store.chunk(name, *chunk, output)
            blocks.append([buffer.view(array.dtype).reshape(-1, *array.shape[2:])[:images]])
        return Blocks(blocks, self.store, chunks, self.device.type == "cuda")

    def _draw(self, pools: Iterable[Pool], orders: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Batches of one pool after the other; what is left of one is made up to a whole batch from the next."""
        size, filled, parts = min(self.batch_size, self.store.layout.images), 0, list[Tensor]()
        for pool, order in zip(pools, orders, strict=True):
            start = 0
            while start < len(order):
                parts = parts if filled else pool.empty(size)
                count = min(size - filled, len(order) - start)
                pool.take(np.sort(order[start : start + count]), [part[filled : filled + count] for part in parts])
                start, filled = start + count, filled + count
                if filled == size:
                    yield self._batch(parts)
                    filled = 0
        if filled:
            yield self._batch([part[:filled] for part in parts])

    def _batch(self, parts: list[Tensor]) -> Batch:
        *taps, log_softmax, position, view = [part.to(self.device, non_blocking=True) for part in parts]
        return Batch(taps, log_softmax, self.labels[position], position, view)


def systematic_resample(weights: Iterable[np.ndarray], rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each image of each pool comes in an epoch that draws by weights.

    Whole numbers whose sum over all pools is the number of images, each the weight (of mean 1) rounded down or up.
    One random start and equal steps along the cumulated weights (systematic resampling): its counts vary as little as
    whole numbers can, and pools can be drawn one after the other.
    """
    pools = [np.asarray(pool, np.float64) for pool in weights]
    images = sum(map(len, pools))
    reached = np.cumsum(np.concatenate(pools))
    ticks = np.minimum(np.floor(reached / reached[-1] * images + rng.random()), images)
    for pool in np.split(np.diff(ticks, prepend=0.0), np.cumsum([len(pool) for pool in pools])[:-1]):
        yield pool.astype(np.int64)
