"""Files of pictures as a cascade reads them: decoded, cropped or stretched, and sized as its training images were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calex.datasets._decoding import WHITES, any_size, decode
from calex.errors import CalexError


def like(shape: Sequence[int], source: Mapping[str, Any], whites: Mapping[str, float]) -> dict[str, Any] | None:
    """How files become images like those of a dataset, of shape (H, W, C), whose source has these options.

    whites: what was taken for white in its files of more than 8 bits. None where files cannot become such images: where they
    are not square.
    """
    height, width, channels = shape
    if height != width:
        return None
    if white := source.get("white"):
        whites = {"integer": white, "float": white}
    return {"size": height, "fit": source.get("fit", "crop"), "grey": channels == 1, "whites": dict(whites)}


def read(path: str | Path, picture: Mapping[str, Any] | None) -> np.ndarray:
    """One file as (S, S, 1 or 3) uint8; a CalexError for one that is no readable picture."""
    if picture is None:
        raise CalexError("the images that this cascade learnt from are not square: give it pixels instead of files")
    with any_size():
        return decode(Path(path), str(path), picture["size"], picture["fit"], picture["grey"], {**WHITES, **picture["whites"]})
