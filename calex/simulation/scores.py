"""Exit scores: how ready a branch is to answer, in [0, 1], higher is readier. An image may leave at score ≥ threshold."""

from __future__ import annotations

import numpy as np

SCORES = ("confidence", "max_softmax", "margin", "entropy")


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
    probabilities = np.exp(log_probabilities.astype(np.float64))
    top = np.sort(probabilities, axis=1)[:, -2:]
    finite = np.maximum(log_probabilities, np.finfo(np.float32).min)  # 0·log 0 is 0
    entropy = -(probabilities * finite).sum(axis=1)
    values = {} if confidence is None else {"confidence": confidence}
    values |= {
        "max_softmax": top[:, 1],
        "margin": top[:, 1] - top[:, 0],
        "entropy": 1 - entropy / np.log(probabilities.shape[1]),
    }
    return {name: np.clip(value, 0, 1).astype(np.float32) for name, value in values.items()}
