"""The frozen backbone over a chunk of images: taps straight into the arrays that are stored."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from calex.backbones.transform import augment, to_input
from calex.system.files import sha256
from calex.system.precision import autocast

AGREEMENT_IMAGES = 512


def view_key(seed: int, view: int) -> int:
    """`augment`'s key for an augmented view.

    Training a backbone counts keys up from its seed; these are drawn from all of 64 bits, so that a view repeats what the
    backbone saw in an epoch by chance alone.
    """
    return int(sha256(f"view {view} of order {seed}".encode())[:16], 16)


class Forward:
    """A frozen network with its taps hooked, ready to turn images into what a store holds.

    model: on its device, in channels_last. outputs: the list that `taps.tapping` fills, best in `dtype`. shapes: (C, H, W) of
    each tap; dtype: NumPy's, of the stored taps. transform: `to_input`'s size, mean and std; shifts: `augment`'s,
    drawn by seed for every view but the first.
    """

    def __init__(
        self,
        model: nn.Module,
        outputs: list[torch.Tensor],
        shapes: Sequence[tuple[int, int, int]],
        classes: int,
        dtype: str,
        transform: dict[str, Any],
        shifts: dict[str, Any],
        batch_size: int,
        compute: str,
        device: torch.device,
        seed: int = 0,
    ) -> None:
        self.model, self.outputs, self.shapes, self.classes = model, outputs, shapes, classes
        self.dtype, self.transform, self.shifts = getattr(torch, dtype), transform, shifts
        self.batch_size, self.compute, self.device, self.seed = batch_size, compute, device, seed

    def computing(self, compute: str) -> Forward:
        """The same network and settings in another precision."""
        other = copy.copy(self)
        other.compute = compute
        return other

    def _empty(self, *shape: int, dtype: torch.dtype) -> torch.Tensor:
        """A host array; pinned beside a GPU, so that copies run while it computes."""
        return torch.empty(shape, dtype=dtype, pin_memory=self.device.type == "cuda")

    @torch.inference_mode()
    def __call__(self, pixels: np.ndarray, index: np.ndarray, view: int) -> tuple[list[np.ndarray], np.ndarray]:
        """Pooled taps (n, C, H, W) and log-softmax (n, K) float32 of n images in one view; view 0 is the image itself.

        pixels: (n, H, W, C) uint8. index: (n,) the images' numbers, which key their augmentation.
        """
        count = len(pixels)
        taps = [self._empty(count, *shape, dtype=self.dtype) for shape in self.shapes]
        log_softmax = self._empty(count, self.classes, dtype=torch.float32)
        for start in range(0, count, self.batch_size):
            part = slice(start, start + self.batch_size)
            inputs = to_input(pixels[part], **self.transform, device=self.device)
            if view > 0:
                inputs = augment(inputs, index[part], key=view_key(self.seed, view), **self.shifts)
            with autocast(self.device, self.compute):
                logits = self.model(inputs.contiguous(memory_format=torch.channels_last))
            cuda = self.device.type == "cuda"  # copies elsewhere are not waited for below
            for whole, tap in zip(taps, self.outputs, strict=True):
                whole[part].copy_(tap, non_blocking=cuda)
            log_softmax[part].copy_(logits.float().log_softmax(1), non_blocking=cuda)
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return [tap.numpy() for tap in taps], log_softmax.numpy()

    def agreement(self, pixels: np.ndarray) -> dict[str, float] | None:
        """How far a reduced precision is from float32 on some images; None where nothing is reduced.

        images: how many. argmax: the share with the same answer. log_softmax: the largest difference.
        """
        if self.compute == "float32":
            return None
        index = np.arange(len(pixels))
        _, reduced = self(pixels, index, 0)
        _, full = self.computing("float32")(pixels, index, 0)
        return {
            "images": len(pixels),
            "argmax": float((reduced.argmax(1) == full.argmax(1)).mean()),
            "log_softmax": float(np.abs(reduced - full).max()),
        }
