"""From stored uint8 images to what a backbone reads; shifts and flips that any batch order reproduces."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from calex.images import Selection


def to_input(
    images: np.ndarray | torch.Tensor,
    size: int,
    mean: list[float],
    std: list[float],
    device: torch.device,
    resize: int | None = None,
    fit: str = "stretch",
    interpolation: str = "bilinear",
) -> torch.Tensor:
    """(B, H, W, C) uint8 → (B, channels, size, size) float32: resized, cut out, normalised per channel.

    Parameters
    ----------
    images : numpy.ndarray or torch.Tensor
        (B, H, W, C) uint8, of one or three channels. Grey ones are repeated, coloured ones made grey, as the network reads them.
    size : int
        Side of the middle square that the network reads, in pixels.
    mean, std : list of float
        A number for each channel that the network reads (three, or one for grey), in units where white is 1.
    device : torch.device
        Where the result is.
    resize : int, optional
        Side to which images are resized before that; `size` where it is not given, and then nothing is cut off.
    fit : str
        How images that are no squares become squares: `stretch`, or `crop` to the middle one.
    interpolation : str
        `bilinear` or `bicubic`, each with antialiasing.
    """
    if images.shape[3] > len(mean):
        images = luminance(images)
    pixels = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.require(images, requirements=["C", "W"]))
    batch = pixels.to(device).permute(0, 3, 1, 2).float() / 255
    if fit == "crop":
        batch = middle(batch, min(batch.shape[-2:]))
    side = resize or size
    if batch.shape[-2:] != (side, side):
        batch = F.interpolate(batch, size=(side, side), mode=interpolation, antialias=True, align_corners=False)
        batch = batch.clamp(0, 1) if interpolation == "bicubic" else batch  # it overshoots at edges
    batch = middle(batch, size)
    centre = torch.tensor(mean, device=device).view(1, -1, 1, 1)
    scale = torch.tensor(std, device=device).view(1, -1, 1, 1)
    return (batch.expand(-1, len(mean), -1, -1) - centre) / scale


def middle(batch: torch.Tensor, size: int) -> torch.Tensor:
    """(B, C, H, W) → (B, C, size, size): the middle square, cut where torchvision cuts it; a view."""
    top, left = (round((side - size) / 2) for side in batch.shape[-2:])
    return batch[..., top : top + size, left : left + size]


LUMA = (19595, 38470, 7471)  # of red, green and blue, in shares of 65536


def luminance(images: Any) -> Any:
    """(…, 3) uint8 → (…, 1) uint8: ITU-R 601 luma in whole numbers, as Pillow makes grey of colours; an array or a tensor."""
    if isinstance(images, torch.Tensor):
        weighted = (images.int() * torch.tensor(LUMA, dtype=torch.int32, device=images.device)).sum(-1, keepdim=True)
        return (weighted + 0x8000).div(65536, rounding_mode="floor").to(torch.uint8)
    weighted = images.astype(np.uint32) @ np.array(LUMA, np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[..., None]


def channel_statistics(
    images: np.ndarray | Selection, channels: int = 3, chunk: int = 1 << 23
) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel of (N, H, W, C) uint8 images, in units where white is 1.

    channels: how many numbers to give, 3 or 1; those of grey images are repeated, coloured ones are made grey first.

    Sums of whole numbers from a histogram of the 256 values: exact, whatever the number of images. `chunk` is how many
    pixels are counted at a time, for which NumPy needs eight bytes each.
    """
    rows = max(1, chunk // math.prod(images.shape[1:3]))
    histograms = [np.zeros(256, np.int64) for _ in range(min(images.shape[3], channels))]
    for start in range(0, len(images), rows):
        part = images[start : start + rows]
        part = luminance(part) if images.shape[3] > channels else part
        for channel, histogram in enumerate(histograms):
            histogram += np.bincount(part[..., channel].ravel(), minlength=256)
    values = np.arange(256)
    mean, std = [], []
    for histogram in histograms:
        count, total, squares = (int((histogram * values**power).sum()) for power in (0, 1, 2))
        mean.append(round(total / count / 255, 6))
        std.append(round(max(math.sqrt(count * squares - total**2) / count / 255, 1e-6), 6))
    repeats = channels // len(histograms)  # grey is repeated
    return mean * repeats, std * repeats


def _hashed(ids: np.ndarray, key: int, draw: int) -> np.ndarray:
    """(B,) uint64, uniform and a pure function of (id, key, draw): the splitmix64 finaliser (Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        value = ids.astype(np.uint64) + np.uint64((key * 0x9E3779B97F4A7C15 + draw * 0xD1B54A32D192ED03) % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
            value = (value ^ (value >> np.uint64(shift))) * np.uint64(factor)
    return value


def augment(batch: torch.Tensor, ids: np.ndarray, key: int, shift: int = 0, flip: bool = False) -> torch.Tensor:
    """Shift each image by up to `shift` pixels each way (edges repeated) and flip it sideways half of the time.

    batch: (B, C, H, W). ids: (B,) the images' numbers. key: the epoch, or seed and view. What happens to an
    image depends on its id and the key alone, never on the batch it came in or on the device.
    """
    if shift == 0 and not flip:
        return batch
    height, width = batch.shape[-2:]
    span = np.uint64(2 * shift + 1)
    down = (_hashed(ids, key, 0) % span).astype(np.int64) - shift
    right = (_hashed(ids, key, 1) % span).astype(np.int64) - shift
    rows = np.clip(np.arange(height) + down[:, None], 0, height - 1)
    columns = np.clip(np.arange(width) + right[:, None], 0, width - 1)
    if flip:
        mirrored = (_hashed(ids, key, 2) & np.uint64(1)).astype(bool)
        columns = np.where(mirrored[:, None], columns[:, ::-1], columns)
    to = torch.from_numpy
    row_index = to(rows).to(batch.device)[:, None, :, None]
    column_index = to(np.ascontiguousarray(columns)).to(batch.device)[:, None, None, :]
    image = torch.arange(len(batch), device=batch.device)[:, None, None, None]
    channel = torch.arange(batch.shape[1], device=batch.device)[None, :, None, None]
    return batch[image, channel, row_index, column_index]
