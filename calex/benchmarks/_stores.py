"""Real stores of made-up features: what reading one costs does not depend on what is in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from calex.features.layout import Layout
from calex.features.store import Store, open_store
from calex.features.writer import Dump

CLASSES = 10
TAP = (64, 8, 8)  # the first tap of a ResNet18, pooled
ROWS = 512  # images per chunk, 4 MB: what a store of three such taps has


def layout_of(images: int) -> Layout:
    return Layout(1, images, (TAP,), CLASSES, rows=ROWS)


def made(folder: Path, images: int) -> Store:
    """A valid store that repeats one random chunk: half a gigabyte takes a second to make."""
    layout = layout_of(images)
    rng = np.random.default_rng(0)
    tap = np.maximum(rng.standard_normal((layout.rows, *TAP), np.float32), 0).astype(np.float16)
    logits = rng.standard_normal((layout.rows, CLASSES), np.float32)
    log_softmax = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    with Dump(folder, "train", layout, np.arange(images) % CLASSES, np.arange(images), {"taps": ["layer1"]}) as dump:
        for view, chunk, start, stop in dump.pending():
            dump.write(view, chunk, [tap[: stop - start]], log_softmax[: stop - start])
        dump.finish()
    return open_store(folder, "train")
