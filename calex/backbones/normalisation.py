"""What is taken from pixels and what they are divided by before a network reads them, and which numbers cannot be meant."""

from __future__ import annotations

import numpy as np

from calex.backbones import transform
from calex.errors import CalexError
from calex.images import Selection


def normalisation(
    given: dict[str, list[float]] | None, images: np.ndarray | Selection, channels: int
) -> dict[str, list[float]]:
    """Mean and std of each channel that a network reads: those of the config, or those of its training images.

    Parameters
    ----------
    given : dict or None
        ``mean`` and ``std`` of the config, in units where white is 1; None measures them.
    images : (N, H, W, C) uint8
        The images that the network learns from.
    channels : int
        How many channels the network reads, 3 or 1.

    Raises
    ------
    CalexError
        For numbers that pixels between 0 and 1 cannot have.
    """
    if given:
        mean, std = checked(given["mean"], given["std"], channels)
    else:
        mean, std = transform.channel_statistics(images, channels)
    return {"mean": mean, "std": std}


def checked(mean: list[float], std: list[float], channels: int) -> tuple[list[float], list[float]]:
    """Give a mean and a std for each channel; a single number stands for all of them.

    Raises CalexError for numbers that pixels between 0 and 1 cannot have, such as those of pixels between 0 and 255.
    """
    for key, values in (("mean", mean), ("std", std)):
        if len(values) not in (1, channels):
            reads = "one channel (grey)" if channels == 1 else f"{channels} channels"
            raise CalexError(f"normalisation: {key} has {len(values)} numbers and the network reads {reads}; give {channels}")
        if max(values) > 1:
            raise CalexError(f"normalisation: {key} {values} is not in units where white is 1; divide numbers of 0..255 by 255")
        if min(values) < 0 or (key == "std" and min(values) == 0):
            raise CalexError(
                f"normalisation: {key} {values} is no {key} of pixels between 0 and 1; give what the weights learnt with"
            )
    return [mean[i % len(mean)] for i in range(channels)], [std[i % len(std)] for i in range(channels)]
