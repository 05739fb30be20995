"""Soft survivor weights: an image counts for a branch in proportion to its probability of reaching it.

With sharpness 0 this is the hard cut of BTS-EE.

CalexNet (arXiv 2509.08318), Gap 1:
u_1 = 1;  u_{k+1}(x) = u_k(x) · (1 − σ((s_k(x) − τ_{k,ŷ_k(x)}) / β));  w_k = max(u_k, ε) / mean
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.policies import cpm
from calex.simulation.exits import Exits

SEQUENTIAL = True

# train_margin: the margin m at which earlier branches are calibrated for this. sharpness: β, in units of the score; 0 is a hard
# cut, infinity (`.inf`) gives all images the same weight. floor: ε, the lower limit of survival. min_support: as in the policy
# `cpm`.
OPTIONS = {"train_margin": 0.0, "sharpness": 0.1, "floor": 0.05, "min_support": 5}
RANGES = {"train_margin": "[-2, 1]", "sharpness": "[0, inf]", "floor": "[0, 1]", "min_support": "[1, inf)"}


def survival(
    validation: Exits, train: Exits, correct: str, train_margin: float, sharpness: float, min_support: int, **_: Any
) -> np.ndarray:
    """Calibrate the branches on validation at the training margin, and compute the survival of training images: u, (N,)."""
    thresholds = cpm.cpm_thresholds(validation, np.array([train_margin]), correct, "survivors", min_support)[0]
    return survival_probability(train.scores, train.predictions, thresholds, sharpness)


def staying_probability(scores: np.ndarray, thresholds: np.ndarray, sharpness: float) -> np.ndarray:
    """Compute the probability that an image stays at a branch, 1 − σ((s − τ)/β).

    Limits by definition: β = 0 is the hard survivor 1[s < τ], β = ∞ lets all stay. With τ = +∞ no image leaves, with τ = −∞ all do.

    Parameters
    ----------
    scores, thresholds : arrays of one shape
        s in [0, 1]; τ, which may be infinite.
    sharpness : float
        β ≥ 0, in units of the score.

    Returns
    -------
    float64, of the same shape
        In [0, 1].

    Raises
    ------
    ValueError
        If β is negative.
    """
    if sharpness < 0:
        raise ValueError(f"sharpness must be ≥ 0, got {sharpness}")
    certain = np.isinf(thresholds)
    if sharpness == 0:
        probability = (scores < thresholds).astype(np.float64)
    elif np.isinf(sharpness):
        probability = np.ones(np.broadcast(scores, thresholds).shape)
    else:
        gap = (scores.astype(np.float64) - np.where(certain, 0.0, thresholds)) / sharpness
        probability = np.exp(-np.logaddexp(0, gap))  # 1 − σ(gap), exact also where it is tiny
    return np.where(certain & ~np.isinf(sharpness), (thresholds > 0).astype(np.float64), probability)


def survival_probability(scores: np.ndarray, predictions: np.ndarray, thresholds: np.ndarray, sharpness: float) -> np.ndarray:
    """Compute the probability u that an image passes all K branches (CalexNet, Gap 1).

    Parameters
    ----------
    scores, predictions : (K, N) float32, int64
        The score and the predicted class of each branch for each image.
    thresholds : (K, C) float64
        Of each branch and predicted class, from calibration at the training margin.
    sharpness : float
        β ≥ 0, in units of the score: 0 is a hard cut, ∞ lets all pass.

    Returns
    -------
    (N,) float64
        In [0, 1], unclipped.

    Raises
    ------
    ValueError
        If β is negative.

    Examples
    --------
    At the threshold an image stays with probability ½; without one (τ = ∞) it certainly stays:

    >>> import numpy as np
    >>> scores, predictions = np.array([[0.5, 0.5]]), np.array([[0, 1]])
    >>> survival_probability(scores, predictions, np.array([[0.5, np.inf]]), sharpness=0.1)
    array([0.5, 1. ])
    """
    u = np.ones(scores.shape[1:])
    for k in range(len(scores)):
        u = u * staying_probability(scores[k], thresholds[k][predictions[k]], sharpness)
    return u


def weights(u: np.ndarray, floor: float, **_: Any) -> np.ndarray:
    """Turn survival into weights, w = max(u, ε) / mean (CalexNet, Gap 1).

    Parameters
    ----------
    u : float64, any shape
        As `survival_probability` gives it.
    floor : float
        ε, the lower limit of survival.

    Returns
    -------
    float64, of u's shape
        With mean 1; all 1 if no image survives (Σu = 0).

    Examples
    --------
    >>> import numpy as np
    >>> weights(np.array([1.0, 0.5, 0.25, 0.0]), floor=0.25)
    array([2. , 1. , 0.5, 0.5])
    """
    if not u.any():
        return np.ones_like(u)
    kept = np.maximum(u, floor)
    return kept / kept.mean()


def diagnosis(
    validation: Exits, u: np.ndarray, min_support: int, sharpness: float, **_: Any
) -> tuple[dict[str, Any], list[str]]:
    """Report whether validation images suffice to estimate survival, and whether survival differs between images."""
    numbers, warnings = cpm.diagnosis(validation, min_support, "lower weighting.min_support, or use the weighting `uniform`")
    if u.any() and np.ptp(u) == 0 and np.isfinite(sharpness):
        warnings.append(
            f"survival is the same for every training image ({u.flat[0]:.3g}), so all weights are 1, as with `uniform`; "
            "raise train_margin, or lower min_support"
        )
    return numbers, warnings
