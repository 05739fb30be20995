"""Class precision margin (CPM): a class may leave early only as precisely as the backbone answers it, less a margin.

CalexNet (arXiv 2509.08318), Gap 2. One margin m spans the whole curve, from every image leaving at the first branch (m = 1)
to none leaving (m = −2).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.simulation.cascade import ALWAYS, NEVER
from calex.simulation.exits import Exits

# population: calibrate branch k on the `survivors` of earlier branches at the same margin, or on `all` images.
# min_support: how many validation images of a class must leave for a threshold to be used.
# steps: how many margins each of [1, 0], [0, −1] and [−1, −2] is swept in, from cheap to the plain backbone.
OPTIONS = {"population": "survivors", "min_support": 5, "steps": 40}
CHOICES = {"population": ["survivors", "all"]}
RANGES = {"min_support": "[1, inf)", "steps": "[1, inf)"}

REMEDY = "lower min_support, or use the policy `global`, which has no threshold per class"

ROUNDING = 1e-9  # rates of whole counts that are equal up to this are equal


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep the margin over 3·steps + 1 operating points, cheapest first: {"margin": (P,) float64}.

    Above 0 the margins crowd towards 0 (as cubes): a strong backbone's branches leave all together at any precision that is
    far below its own.
    """
    part = np.arange(steps) / steps
    return {"margin": np.concatenate([(1 - part) ** 3, 0 - part, -1 - part, [-2.0]]).round(9)}


def thresholds(
    exits: Exits, parameters: dict[str, np.ndarray], correct: str, population: str, min_support: int, **_: Any
) -> np.ndarray:
    """Calibrate at each margin of a sweep: (P, K, C) float64 from validation exits, see `cpm_thresholds`."""
    return cpm_thresholds(exits, parameters["margin"], correct, population, min_support)


def cpm_thresholds(
    exits: Exits, margins: np.ndarray, correct: str = "label", population: str = "survivors", min_support: int = 5
) -> np.ndarray:
    """Compute the thresholds of every branch and class at each class precision margin (CalexNet, Gap 2).

    τ_{k,c}(m) is the smallest score t such that, of the images that are predicted as class c at branch k with scores ≥ t, there
    are at least `min_support` and their share of correct ones reaches `required_precision` of class c at margin m.

    Parameters
    ----------
    exits : Exits
        K branches over N validation images of C classes.
    margins : (P,) float64
        In [−2, 1].
    correct : {"label", "backbone"}
        What a prediction is compared with.
    population : {"survivors", "all"}
        Calibrate branch k on the images that branches before it keep at the same margin, or on all images.
    min_support : int
        How many images must leave for a threshold to be used.

    Returns
    -------
    (P, K, C) float64
        +∞ where no image may leave, −∞ where all may.

    Raises
    ------
    ValueError
        If a margin is outside [−2, 1].

    Examples
    --------
    A branch that is right at score 0.9 and wrong at 0.4, beside a backbone that is always right (precision 1):

    >>> import numpy as np
    >>> from calex.simulation.cost import Costs
    >>> exits = Exits(
    ...     predictions=np.array([[0, 0]]), scores=np.array([[0.9, 0.4]]), labels=np.array([0, 1]),
    ...     backbone=np.array([0, 1]), classes=2, costs=Costs((1.0,), (0.5,), 4.0),
    ... )
    >>> cpm_thresholds(exits, np.array([1.0, 0.0, -2.0]), min_support=1)[:, 0, 0]
    array([-inf,  0.9,  inf])
    """
    truth = exits.truth(correct)
    precision = class_precision(exits.backbone, truth, exits.classes)
    branches = len(exits.scores)
    thresholds = np.empty((len(margins), branches, exits.classes))
    rankings = [ranking(exits.scores[k], exits.predictions[k]) for k in range(branches)]
    right = exits.predictions == truth
    for p, margin in enumerate(np.asarray(margins, float).tolist()):
        required, share = required_precision(margin, precision), leaving_share(margin)
        staying = np.ones(len(truth), bool)
        for k, ranked in enumerate(rankings):
            reached = ranked[staying[ranked]]
            thresholds[p, k] = ranked_thresholds(
                exits.scores[k, reached], exits.predictions[k, reached], right[k, reached], required, share, min_support
            )
            if population == "survivors":
                staying &= exits.scores[k] < thresholds[p, k, exits.predictions[k]]
    return thresholds


def class_precision(predictions: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """Compute how often predictions of each class are right: Pr_c, (C,) float64, NaN for a class never predicted.

    Parameters
    ----------
    predictions, truth : (N,) int64
        Classes, from 0.
    classes : int
        C.
    """
    predicted = np.bincount(predictions, minlength=classes)
    right = np.bincount(predictions[predictions == truth], minlength=classes)
    return np.divide(right, predicted, out=np.full(classes, np.nan), where=predicted > 0)


def required_precision(margin: float, precision: np.ndarray) -> np.ndarray:
    """Compute the precision that a class's early answers must reach at a margin m, (C,) float64.

    0 ≤ m ≤ 1: (1 − m)·Pr_c. −1 ≤ m < 0: 1 − (1 + m)(1 − Pr_c). −2 ≤ m < −1: 1. NaN where Pr_c is undefined.

    Parameters
    ----------
    margin : float
        m, in [−2, 1]; another one is a ValueError.
    precision : (C,) float64
        Pr_c, as `class_precision` gives it.
    """
    if not -2 <= margin <= 1:
        raise ValueError(f"margin must be in [-2, 1], got {margin}")
    if margin >= 0:
        return (1 - margin) * precision
    return 1 - max(1 + margin, 0.0) * (1 - precision)


def leaving_share(margin: float) -> float:
    """Compute which share of the images that would leave at precision 1 does: 1 down to m = −1, then 2 + m."""
    return 1.0 if margin >= -1 else 2 + margin


def ranking(scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """Order images by predicted class, the best scores first: (N,) int64."""
    return np.lexsort((-scores, predictions))


def ranked_thresholds(
    scores: np.ndarray, predictions: np.ndarray, correct: np.ndarray, required: np.ndarray, share: float, min_support: int
) -> np.ndarray:
    """Compute one branch's thresholds over the images that reach it: (C,) float64.

    For each class the smallest score t such that at least `min_support` images predicted as that class score ≥ t, at a rate of
    correct ones ≥ the required one. Equal scores leave or stay together. All qualify, or the required precision is ≤ 0: −∞. None
    does, or it is undefined: +∞.

    Parameters
    ----------
    scores, predictions, correct : (n,) float32, int64, bool
        Of the images that reach the branch, in the order of `ranking`.
    required : (C,) float64
        As `required_precision` gives it.
    share : float
        Below 1, only this top share of those that would leave do (never a part of equal scores).
    min_support : int
        How many images must leave for a threshold to be used.
    """
    classes = np.arange(len(required))
    starts = np.searchsorted(predictions, classes, side="left")
    counts = np.searchsorted(predictions, classes, side="right") - starts
    rank = np.arange(len(scores)) - starts[predictions] + 1  # how many leave if the threshold is this score
    right = np.append(0, np.cumsum(correct))
    right = right[1:] - right[starts[predictions]]
    changes = (scores[1:] != scores[:-1]) | (predictions[1:] != predictions[:-1])
    last_of_tie = np.append(changes, True) if len(scores) else np.zeros(0, bool)  # ties are never split

    bar = required[predictions]
    good = last_of_tie & (rank >= min_support) & (right >= (bar - ROUNDING) * rank)
    good |= (bar <= 0) & (rank == counts[predictions])
    leaving = np.zeros(len(required), np.int64)
    leaving[predictions[good]] = rank[good]  # ranks ascend, and of repeated indices the last one counts
    everyone = (leaving == counts) & ((leaving > 0) | (required <= 0))
    if share < 1:
        allowed = np.floor(share * leaving + ROUNDING)
        fits = last_of_tie & (rank <= allowed[predictions])
        leaving = np.zeros(len(required), np.int64)
        leaving[predictions[fits]] = rank[fits]
        everyone = np.zeros(len(required), bool)

    thresholds = np.full(len(required), NEVER)
    some = leaving > 0
    thresholds[some] = scores[(starts + leaving - 1)[some]]
    thresholds[everyone] = ALWAYS
    return thresholds


def support(predictions: np.ndarray, classes: int, min_support: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the classes that each branch predicts for enough images.

    The other classes get no threshold that lets an image leave, unless all of them may.

    Parameters
    ----------
    predictions : (K, N) int64
        Of K branches.
    classes : int
        C.
    min_support : int
        How many images are enough.

    Returns
    -------
    (K,) int64, (K,) float64
        The number of such classes at each branch, and their images' share.
    """
    counts = np.stack([np.bincount(predicted, minlength=classes) for predicted in predictions])
    enough = counts >= min_support
    return enough.sum(axis=1), np.where(enough, counts, 0).sum(axis=1) / predictions.shape[1]


def diagnosis(exits: Exits, min_support: int, remedy: str = REMEDY, **_: Any) -> tuple[dict[str, Any], list[str]]:
    """Count the classes that have enough validation images for a threshold, at each branch before any image leaves.

    Warns where these are the classes of fewer than half of the images. `remedy` says what helps beside more images.
    """
    classes, share = support(exits.predictions, exits.classes, min_support)
    numbers = {"min_support": min_support, "classes_with_min_support": classes.tolist()}
    few = share < 0.5
    if not few.any():
        return numbers, []
    return numbers, [
        f"at one branch only {classes[few].min()} of {exits.classes} classes are predicted for min_support ({min_support}) or more of the "
        f"{exits.predictions.shape[1]} validation images; images that get another class seldom leave there: hold out more "
        f"validation images, {remedy}"
    ]
