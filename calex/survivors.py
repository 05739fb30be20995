"""Which training images a branch will really see: soft survivor weights (CalexNet, arXiv 2509.08318, Gap 1).

u_1 = 1;  u_{k+1}(x) = u_k(x) · (1 − σ((s_k(x) − τ_{k,ŷ_k(x)}) / β));  w_k = max(u_k, ε) / mean
"""

from __future__ import annotations

import numpy as np


def stay(scores: np.ndarray, thresholds: np.ndarray, sharpness: float) -> np.ndarray:
    """The chance in [0, 1] that an image stays: 1 − σ((s − τ)/β), of any shape.

    Limits by definition: β = 0 is the hard survivor 1[s < τ], β = ∞ lets all stay. τ = +∞ nobody leaves,
    τ = −∞ everybody does.
    """
    if sharpness < 0:
        raise ValueError(f"sharpness must be ≥ 0, got {sharpness}")
    certain = np.isinf(thresholds)
    if sharpness == 0:
        chance = (scores < thresholds).astype(np.float64)
    elif np.isinf(sharpness):
        chance = np.ones(np.broadcast(scores, thresholds).shape)
    else:
        gap = (scores.astype(np.float64) - np.where(certain, 0.0, thresholds)) / sharpness
        chance = np.exp(-np.logaddexp(0, gap))  # 1 − σ(gap), exact also where it is tiny
    return np.where(certain & ~np.isinf(sharpness), (thresholds > 0).astype(np.float64), chance)


def survival(scores: np.ndarray, predictions: np.ndarray, thresholds: np.ndarray, sharpness: float) -> np.ndarray:
    """u after all K branches: (…,) float64 in [0, 1], unclipped.

    scores, predictions: (K, …). thresholds: (K, C), from calibration at the training margin.
    """
    u = np.ones(scores.shape[1:])
    for k in range(len(scores)):
        u = u * stay(scores[k], thresholds[k][predictions[k]], sharpness)
    return u


def weights(u: np.ndarray, floor: float) -> np.ndarray:
    """w = max(u, ε) / mean, float64 of u's shape, mean 1. Nobody survives (Σu = 0): all weights are 1."""
    if not u.any():
        return np.ones_like(u)
    kept = np.maximum(u, floor)
    return kept / kept.mean()


def effective_sample_size(w: np.ndarray) -> float:
    """(Σw)² / Σw²: how many equally weighted images the weights are worth (Kish 1965)."""
    return float(w.sum() ** 2 / np.square(w).sum())
