"""What no exit rule over the same branches can exceed: an estimate that knows all outputs of an image, but not its label.

For a price x the *clairvoyant* takes the exit k with the largest (1 − x)·η_k − x·c_k, where c_k is the cost of leaving at k and
η_k the chance that exit k is right, given what all exits and the backbone say. A policy sees fewer of these outputs when
it decides. η is estimated, on images other than those that are judged, so that the bound is an estimate too, from below.
"""

from __future__ import annotations

import numpy as np

from calex.simulation.cost import Costs

FLOOR = -12.0  # log-probabilities below this are alike
RIDGE = 1.0  # of the standardised coefficients, in images
PRICES = np.concatenate([[1.0], (price := np.geomspace(10.0, 1e-3, 39)) / (1 + price), [0.0]]).round(9)


def features(log_softmax: np.ndarray, answers: np.ndarray) -> np.ndarray:
    """Describe N images by what E exits, the backbone among them, think of each exit's answer.

    Parameters
    ----------
    log_softmax : (E, N, C) float16
        Of each exit.
    answers : (E, N) int64
        What each exit predicts.

    Returns
    -------
    (E, N, 2E + 1) float64
        For each exit e: log-probabilities that all exits give to its answer, those of their own answers, and 1.
    """
    exits, images = answers.shape
    own = np.take_along_axis(log_softmax, answers[:, :, None], axis=2)[:, :, 0]
    of_answer = np.stack([np.take_along_axis(log_softmax, np.broadcast_to(each[None, :, None], (exits, images, 1)), axis=2)[:, :, 0]
                          for each in answers])  # fmt: skip
    both = np.concatenate([of_answer, np.broadcast_to(own, of_answer.shape)], axis=1).astype(np.float64)
    return np.concatenate([np.maximum(both, FLOOR), np.ones((exits, 1, images))], axis=1).transpose(0, 2, 1)


def fit_logistic(inputs: np.ndarray, right: np.ndarray, rounds: int = 30) -> np.ndarray:
    """Fit P(right) = σ(w·x) by Newton's method with a small ridge: (D,) float64.

    inputs: (N, D), the last column being 1. right: (N,) bool.
    """
    mean, scale = inputs.mean(axis=0), inputs.std(axis=0)
    mean[-1], scale[scale == 0], scale[-1] = 0.0, 1.0, 1.0
    x = (inputs - mean) / scale
    w = np.zeros(x.shape[1])
    for _ in range(rounds):
        p = 1 / (1 + np.exp(-np.clip(x @ w, -30, 30)))
        gradient = x.T @ (right - p) - RIDGE * w
        hessian = (x * np.maximum(p * (1 - p), 1e-6)[:, None]).T @ x + RIDGE * np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        w += step * min(1.0, 5.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-8:
            break
    raw = w / scale
    raw[-1] -= raw[:-1] @ mean[:-1]
    return raw


def chance_of_right(fit_on: tuple[np.ndarray, np.ndarray], inputs: np.ndarray) -> np.ndarray:
    """Estimate η on other images: from features (E, N, D) and right (E, N), and features (E, M, D), to (E, M) float64."""
    weights = np.stack([fit_logistic(x, right) for x, right in zip(*fit_on, strict=True)])
    return 1 / (1 + np.exp(-np.clip(np.einsum("end,ed->en", inputs, weights), -30, 30)))


def clairvoyant(eta: np.ndarray, costs: Costs, prices: np.ndarray = PRICES) -> np.ndarray:
    """Let each image leave where its expected reward is largest: (P, N) uint8, of equal ones the cheapest exit.

    Parameters
    ----------
    eta : (K + 1, N) float64
        The chance that each exit is right, the backbone being the last.
    costs : Costs
        FLOPs of each exit.
    prices : (P,) float64
        x, in [0, 1].
    """
    cost = costs.by_exit() / costs.backbone
    worth = (1 - prices)[:, None, None] * eta - prices[:, None, None] * cost[:, None]
    return worth.argmax(axis=1).astype(np.uint8)


def auroc(scores: np.ndarray, right: np.ndarray) -> float | None:
    """Compute the chance that a right image scores above a wrong one, equal scores counting half; None if all are alike.

    scores, right: (N,) float and bool.
    """
    positives = int(right.sum())
    negatives = len(right) - positives
    if not positives or not negatives:
        return None
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[which]
    return float((ranks[right].sum() - positives * (positives + 1) / 2) / (positives * negatives))
