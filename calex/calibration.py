"""Thresholds from class precision margins (CPM): a class may leave early only as precisely as the backbone answers it.

CalexNet (arXiv 2509.08318), Gap 2. One swept margin m spans the whole curve, from everything leaving at the
first branch (m = 1) to nothing leaving (m = −2).
"""

from __future__ import annotations

import numpy as np

from calex.exits import Exits

STAY, GO = np.inf, -np.inf


def class_precision(predictions: np.ndarray, truth: np.ndarray, classes: int) -> np.ndarray:
    """(C,) float64: how often predictions of each class are right; NaN for a class never predicted."""
    predicted = np.bincount(predictions, minlength=classes)
    right = np.bincount(predictions[predictions == truth], minlength=classes)
    return np.divide(right, predicted, out=np.full(classes, np.nan), where=predicted > 0)


def bars(margin: float, precision: np.ndarray) -> np.ndarray:
    """(C,) float64: the precision that a class's early answers must reach at this margin.

    0 ≤ m ≤ 1: (1 − m)·Pr_c. −1 ≤ m < 0: 1 − (1 + m)(1 − Pr_c). −2 ≤ m < −1: 1. NaN where Pr_c is undefined.
    """
    if not -2 <= margin <= 1:
        raise ValueError(f"margin must be in [-2, 1], got {margin}")
    if margin >= 0:
        return (1 - margin) * precision
    return 1 - max(1 + margin, 0.0) * (1 - precision)


def kept_share(margin: float) -> float:
    """Of those that would leave at bar 1, the share that does: 1 down to m = −1, then 2 + m."""
    return 1.0 if margin >= -1 else 2 + margin


def ranking(scores: np.ndarray, predictions: np.ndarray) -> np.ndarray:
    """(N,) int64: images by predicted class, the best scores first."""
    return np.lexsort((-scores, predictions))


def ranked_thresholds(
    scores: np.ndarray, predictions: np.ndarray, correct: np.ndarray, bar: np.ndarray, share: float, min_support: int
) -> np.ndarray:
    """(C,) float64: one branch's thresholds over the images that reach it, which come in the order of `ranking`.

    scores (N,), predictions (N,), correct (N,) bool; bar (C,) as `bars` gives it. For each class the smallest
    score t such that at least `min_support` images predicted as that class score ≥ t, at a rate of correct ones
    ≥ bar. Equal scores leave or stay together. All qualify, or the bar is ≤ 0: −∞. None does, or the bar is
    undefined: +∞. With share < 1 only the top share of those that would leave do (never a part of a tie).
    """
    classes = np.arange(len(bar))
    starts = np.searchsorted(predictions, classes, side="left")
    counts = np.searchsorted(predictions, classes, side="right") - starts
    rank = np.arange(len(scores)) - starts[predictions] + 1  # how many leave if the threshold is this score
    right = np.append(0, np.cumsum(correct))
    right = right[1:] - right[starts[predictions]]
    changes = (scores[1:] != scores[:-1]) | (predictions[1:] != predictions[:-1])
    whole = np.append(changes, True) if len(scores) else np.zeros(0, bool)  # the last of a tie: ties are never split

    here = bar[predictions]
    # A rate of whole counts against a bar that is itself a product of rates: equal up to rounding is equal.
    good = whole & (rank >= min_support) & (right >= (here - 1e-9) * rank)
    good |= (here <= 0) & (rank == counts[predictions])
    leaving = np.zeros(len(bar), np.int64)
    leaving[predictions[good]] = rank[good]  # ranks ascend, and of repeated indices the last one counts
    everyone = (leaving == counts) & ((leaving > 0) | (bar <= 0))
    if share < 1:
        allowed = np.floor(share * leaving + 1e-9)
        fits = whole & (rank <= allowed[predictions])
        leaving = np.zeros(len(bar), np.int64)
        leaving[predictions[fits]] = rank[fits]
        everyone = np.zeros(len(bar), bool)

    found = np.full(len(bar), STAY)
    some = leaving > 0
    found[some] = scores[(starts + leaving - 1)[some]]
    found[everyone] = GO
    return found


def precision_margin(
    exits: Exits, margins: np.ndarray, correct: str = "label", population: str = "survivors", min_support: int = 5
) -> np.ndarray:
    """(P, K, C) float64: CPM thresholds of every branch at every margin, from validation exits.

    population: `survivors` calibrates branch k on the images that branches 1..k−1 keep at the same margin;
    `all` on all of them.
    """
    truth = exits.truth(correct)
    precision = class_precision(exits.backbone, truth, exits.classes)
    branches = len(exits.scores)
    found = np.empty((len(margins), branches, exits.classes))
    rankings = [ranking(exits.scores[k], exits.predictions[k]) for k in range(branches)]
    right = exits.predictions == truth
    for p, margin in enumerate(np.asarray(margins, float)):
        bar, share = bars(float(margin), precision), kept_share(float(margin))
        here = np.ones(len(truth), bool)
        for k, ranked in enumerate(rankings):
            seen = ranked[here[ranked]]
            found[p, k] = ranked_thresholds(
                exits.scores[k, seen], exits.predictions[k, seen], right[k, seen], bar, share, min_support
            )
            if population == "survivors":
                here &= exits.scores[k] < found[p, k, exits.predictions[k]]
    return found


def support(predictions: np.ndarray, classes: int, min_support: int) -> tuple[np.ndarray, np.ndarray]:
    """(K,) int64: how many classes each branch predicts for at least `min_support` images; (K,) float64: these images' share.

    predictions: (K, N) int64. The other classes get no threshold that lets an image leave, unless all of them may.
    """
    counts = np.stack([np.bincount(predicted, minlength=classes) for predicted in predictions])
    enough = counts >= min_support
    return enough.sum(axis=1), np.where(enough, counts, 0).sum(axis=1) / predictions.shape[1]


def folds(classes: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """(N,) int64 in [0, count): a fixed assignment of validation images to folds, stratified by `classes` (N,).

    These are the backbone's answers and not the labels: which thresholds an image meets must not depend on its label.
    """
    generator = np.random.default_rng(seed)
    assigned = np.empty(len(classes), np.int64)
    shuffled = generator.permutation(len(classes))
    by_class = shuffled[np.argsort(classes[shuffled], kind="stable")]
    assigned[by_class] = np.arange(len(classes)) % count
    return assigned
