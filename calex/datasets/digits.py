"""scikit-learn's handwritten digits: 1797 real 8×8 grey images that ship with the library (UCI, E. Alpaydin & C. Kaynak)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from calex.images import Images
from calex.images.splitting import stratified_split

# val, test: how many images each; the rest is train. split_seed: which fixed split.
OPTIONS = {"val": 397, "test": 400, "split_seed": 0}
RANGES = {"val": "[1, inf)", "test": "[1, inf)", "split_seed": "[0, 4294967295]"}
MEMORY_MB = 1000  # that decoding takes at its peak


def load(resources: Path, val: int, test: int, split_seed: int) -> Images:
    """Load the digits; `resources` is not needed, they come with scikit-learn."""
    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)  # the source counts ink from 0 to 16
    labels = bunch.target.astype(np.int64)
    return Images(
        images=grey[..., None],
        labels=labels,
        split=stratified_split(labels, val, test, split_seed),
        names=np.array([str(digit) for digit in range(10)]),
    )
