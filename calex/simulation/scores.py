"""Exit scores: how ready a branch is to answer, in [0, 1], higher is readier. An image may leave at score ≥ threshold.

Every score follows from a few numbers of an image, its `Summary`, which files keep exactly.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

SCORES = ("confidence", "max_softmax", "margin", "entropy")


class Summary(NamedTuple):
    """What the scores of N images are made of.

    top: (N, 2) float32, log-probabilities of the likeliest and the second class. entropy: (N,) float64, of the softmax, in
    nats. confidence: (N,) float32 in [0, 1], the confidence head's sigmoid, or None for a branch without one. A part that a
    score does not need may be None.
    """

    top: np.ndarray | None
    entropy: np.ndarray | None
    confidence: np.ndarray | None


# The part of a summary that each score is read off.
PART = {"confidence": "confidence", "max_softmax": "top", "margin": "top", "entropy": "entropy"}


def summary(log_probabilities: np.ndarray, confidence: np.ndarray | None) -> Summary:
    """Summarise a branch's output for N images: (N, C) float32 log-softmax and (N,) float32 confidences, or None."""
    top = np.partition(log_probabilities, -2, axis=1)[:, :-3:-1].copy()  # a view would keep all classes in memory
    finite = np.maximum(log_probabilities, np.finfo(np.float32).min)  # 0·log 0 is 0
    entropy = -(np.exp(log_probabilities.astype(np.float64)) * finite).sum(axis=1)
    return Summary(top, entropy, confidence)


def score(name: str, of: Summary, classes: int) -> np.ndarray:
    """Compute one score of N images, (N,) float32, from the part of their summary that `PART` names.

    `max_softmax` is p₁, the largest probability; `margin` is p₁ − p₂; `entropy` is 1 − H/log C; `confidence` is given.
    """
    part = getattr(of, PART[name])
    if name in ("max_softmax", "margin"):
        first, second = np.exp(part.astype(np.float64)).T
        part = first if name == "max_softmax" else first - second
    elif name == "entropy":
        part = 1 - part / np.log(classes)
    return np.clip(part, 0, 1).astype(np.float32)


def scores(log_probabilities: np.ndarray, confidence: np.ndarray | None) -> dict[str, np.ndarray]:
    """Compute every score of N images from a branch's output.

    `max_softmax` is p₁, the largest probability; `margin` is p₁ − p₂; `entropy` is 1 − H/log C; `confidence` is given.

    Parameters
    ----------
    log_probabilities : (N, C) float32
        Log-softmax of the branch's logits.
    confidence : (N,) float32 or None
        The confidence head's sigmoid; None for a branch without one, which then has no such score.

    Returns
    -------
    dict of (N,) float32
        Each score by name, in [0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> values = scores(np.log([[0.5, 0.5], [0.75, 0.25]]), confidence=None)
    >>> values["max_softmax"], values["margin"]
    (array([0.5 , 0.75], dtype=float32), array([0. , 0.5], dtype=float32))
    """
    of, classes = summary(log_probabilities, confidence), log_probabilities.shape[1]
    return {name: score(name, of, classes) for name in SCORES if getattr(of, PART[name]) is not None}
