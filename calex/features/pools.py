"""Images of a store in memory, from which batches are copied."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from calex.features.store import Store


class Pool(Protocol):
    """Images in memory that batches are drawn from, numbered from 0."""

    def empty(self, count: int) -> list[Tensor]:
        """Room for so many images: the taps, the log-softmaxes, positions and views."""
        ...

    def take(self, items: np.ndarray, out: list[Tensor]) -> None:
        """Copy some images, given in ascending order, into room of that size."""
        ...


class Blocks:
    """A pool of images in main memory, each where it was read or mapped to."""

    def __init__(self, blocks: list[list[np.ndarray]], store: Store, chunks: list[tuple[int, int]], pinned: bool = False):
        """blocks: for each array the images of `chunks`, (view, chunk number) each, in one or several pieces (rows, …)."""
        self.pinned, self.blocks = pinned, blocks
        self.starts = np.cumsum([0, *map(len, blocks[0])])
        self.position = np.concatenate([np.arange(*store.layout.bounds(n)) for _, n in chunks])
        self.view = np.concatenate([np.full(store.layout.rows_in(n), view) for view, n in chunks])

    def pieces(self) -> list[list[np.ndarray]]:
        """The blocks of every array, with those of positions and views."""
        return [*self.blocks, [self.position], [self.view]]

    def empty(self, count: int) -> list[Tensor]:
        """Return room in main memory, page-locked if `pinned`; positions and views are the last two."""
        return [
            torch.empty((count, *blocks[0].shape[1:]), dtype=torch_dtype(blocks[0]), pin_memory=self.pinned)
            for blocks in self.pieces()
        ]

    def take(self, items: np.ndarray, out: list[Tensor]) -> None:
        """Copy images, given in ascending order, block by block."""
        # NumPy, because torch would start threads for so small a copy, which costs more than it saves.
        *outputs, position, view = [part.numpy() for part in out]
        np.take(self.position, items, out=position, mode="clip")
        np.take(self.view, items, out=view, mode="clip")
        cuts = np.searchsorted(items, self.starts)
        for n in np.flatnonzero(np.diff(cuts)):
            some = slice(cuts[n], cuts[n + 1])
            rows = items[some] - self.starts[n]
            for blocks, output in zip(self.blocks, outputs, strict=True):
                np.take(blocks[n], rows, axis=0, out=output[some], mode="clip")


class OnDevice:
    """A pool that was copied to a GPU completely."""

    def __init__(self, pool: Blocks, device: torch.device):
        self.parts = [
            torch.empty((pool.starts[-1], *blocks[0].shape[1:]), dtype=torch_dtype(blocks[0]), device=device)
            for blocks in pool.pieces()
        ]
        for part, blocks in zip(self.parts, pool.pieces(), strict=True):
            start = 0
            for block in blocks:
                part[start : start + len(block)] = torch.tensor(block)
                start += len(block)

    def empty(self, count: int) -> list[Tensor]:
        """Return room on the device; positions and views are the last two."""
        return [torch.empty((count, *part.shape[1:]), dtype=part.dtype, device=part.device) for part in self.parts]

    def take(self, items: np.ndarray, out: list[Tensor]) -> None:
        """Copy images on the device, in any order."""
        chosen = torch.from_numpy(items).to(self.parts[0].device)
        for part, output in zip(self.parts, out, strict=True):
            torch.index_select(part, 0, chosen, out=output)


def torch_dtype(array: np.ndarray) -> torch.dtype:
    """torch's name for an array's dtype."""
    return torch.from_numpy(np.empty(0, array.dtype)).dtype
