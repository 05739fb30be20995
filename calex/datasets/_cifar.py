"""CIFAR's batches as published: pickled by Python 2, read without trusting the pickle."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from calex.errors import CalexError

SIDE = 32

# All that a pickled array of numbers needs, under the names of old and new NumPy.
ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
}


class ArraysOnly(pickle.Unpickler):
    """Arrays and builtin containers; a pickle may otherwise run any code."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def unpickled(data: bytes, where: str) -> dict[str, Any]:
    """Read a published dictionary, its keys as text."""
    try:
        content = ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except Exception as error:  # damaged bytes make the pickle machine fail in any way there is
        raise CalexError(f"{where}: not a CIFAR file ({error}); get the archive again") from None
    if not isinstance(content, dict):
        raise CalexError(f"{where}: not a CIFAR file (no dictionary); get the archive again")
    return content


def names(content: dict[str, Any], key: str, where: str) -> np.ndarray:
    """Return the official label names, (C,) str."""
    listed = content.get(key)
    if not isinstance(listed, list) or not listed or not all(isinstance(name, str) for name in listed):
        raise CalexError(f"{where}: no list of names under '{key}'; get the archive again")
    return np.array(listed)


def batch(content: dict[str, Any], key: str, classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch: (n, 32, 32, 3) uint8 images and (n,) int64 labels.

    A record is 3072 bytes: the red plane, the green and the blue one, each row by row.
    """
    data, labels = content.get("data"), content.get(key)
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * SIDE * SIDE:
        got = f"{data.dtype} {data.shape}" if isinstance(data, np.ndarray) else type(data).__name__
        raise CalexError(f"{where}: records must be (n, {3 * SIDE * SIDE}) uint8, got {got}; get the archive again")
    if not isinstance(labels, list) or len(labels) != len(data) or not all(type(label) is int for label in labels):
        raise CalexError(f"{where}: '{key}' must be a list of {len(data)} whole numbers; get the archive again")
    numbers = np.array(labels, dtype=np.int64)
    outside = np.flatnonzero((numbers < 0) | (numbers >= classes))
    if outside.size:
        first = outside[0]
        raise CalexError(f"{where}: image {first} has label {numbers[first]}, outside 0..{classes - 1}; get the archive again")
    return data.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1), numbers
