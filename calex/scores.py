"""Exit scores: how ready a branch is to answer, in [0, 1], higher is readier. An image may leave at score ≥ threshold."""

from __future__ import annotations

import numpy as np

SCORES = ("confidence", "max_softmax", "margin", "entropy")


def scores(log_probabilities: np.ndarray, confidence: np.ndarray | None) -> dict[str, np.ndarray]:
    """Every score of N images, (N,) float32 each.

    log_probabilities: (N, C) log-softmax of the branch's logits; confidence: (N,) the confidence head's sigmoid,
    or None: then there is no such score.
    max_softmax: p₁. margin: p₁ − p₂ of the two largest. entropy: 1 − H/log C.
    """
    probabilities = np.exp(log_probabilities.astype(np.float64))
    top = np.sort(probabilities, axis=1)[:, -2:]
    finite = np.maximum(log_probabilities, np.finfo(np.float32).min)  # 0·log 0 is 0
    surprise = -(probabilities * finite).sum(axis=1)
    found = {} if confidence is None else {"confidence": confidence}
    found |= {
        "max_softmax": top[:, 1],
        "margin": top[:, 1] - top[:, 0],
        "entropy": 1 - surprise / np.log(probabilities.shape[1]),
    }
    return {name: np.clip(value, 0, 1).astype(np.float32) for name, value in found.items()}
