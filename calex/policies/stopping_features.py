"""The best decision for a price of computing, learnt from all scores and answers so far (Longstaff & Schwartz's way, 2001).

At a price the gain of leaving at a branch over going on is regressed on what the exits so far gave: their scores, which
of them agree with this branch, and the class. An image leaves where the fitted gain is not negative. Branches are fitted
from the deepest to the first; what going on is worth is the reward that it really brought with the decisions fitted so far,
not a fitted one, whose errors would add up. Like `stopping`, it keeps the points of the policies `global` and `budgeted`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from calex.policies import budgeted
from calex.policies._pooled import at_quantiles, quantiles
from calex.policies.stopping import prices, rewards
from calex.simulation.exits import Exits, SoFar

# steps: steps + 1 prices, and steps + 1 points of each of the two other policies. ridge: how strongly coefficients are drawn
# to 0, in images: a class that fewer validation images are answered as hardly counts.
OPTIONS = {"steps": 40, "ridge": 10.0}
RANGES = {"steps": "[2, inf)", "ridge": "(0, inf)"}

DIGITS = 9  # of scores: sums of products in another order, for fewer images, differ in their last bits
REMEDY = "or choose the policy `stopping`, which fits one number per branch"


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep prices from 1 to 0, then the points of the policies `global` and `budgeted`: {"sweep", "at": (P,)}."""
    by = {"price": prices(steps), "quantile": quantiles(steps)["quantile"], "deeper": budgeted.parameters(steps)["deeper"]}
    return {"sweep": np.repeat(list(by), steps + 1), "at": np.concatenate(list(by.values()))}


def dense_features(so_far: SoFar, k: int) -> np.ndarray:
    """Describe images at branch k, from 0: 1, the scores s_1..s_k, s_k², and whether each earlier branch agrees, (N, 2k + 3)."""
    scores = so_far.scores[: k + 1].astype(np.float64)
    agree = so_far.predictions[:k] == so_far.predictions[k]
    return np.concatenate([np.ones((1, scores.shape[1])), scores, scores[k:] ** 2, agree]).T


def learn(exits: Exits, parameters: dict[str, np.ndarray], correct: str, ridge: float, **_: Any) -> dict[str, np.ndarray]:
    """Fit each branch at each price: {"branch1": (P, D_1 + C), …}, of the dense features, then of the classes.

    At the points of other policies the score is the branch's own.
    """
    is_price = parameters["sweep"] == "price"
    at = parameters["at"][is_price].tolist()
    going_on = np.stack([rewards(exits, price, correct) for price in at])  # (Q, K + 1, N)
    worth = going_on[:, -1].copy()
    learnt = {}
    for k in reversed(range(len(exits.scores))):
        dense, predicted = dense_features(exits.so_far, k), exits.predictions[k]
        fitted = fit(dense, predicted, exits.classes, going_on[:, k] - worth, ridge)
        leaves = gains(dense, predicted, fitted) >= 0
        worth = np.where(leaves, going_on[:, k], worth)
        own = np.zeros((len(is_price), fitted.shape[1]))
        own[:, k + 1] = 1.0  # the branch's score stands after the 1
        own[is_price] = fitted
        learnt[f"branch{k + 1}"] = own
    return learnt


def fit(dense: np.ndarray, predicted: np.ndarray, classes: int, gain: np.ndarray, ridge: float) -> np.ndarray:
    """Regress gains (Q, N) on dense features (N, D) and the class (N,), with a ridge on the classes' terms: (Q, D + C).

    The classes' terms are solved for by hand, as the mean of what is left: no matrix is of their size.
    """
    counts = np.bincount(predicted, minlength=classes) + ridge
    features = np.stack([np.bincount(predicted, column, minlength=classes) for column in dense.T], axis=1)  # (C, D) sums
    sums = np.stack([np.bincount(predicted, each, minlength=classes) for each in gain], axis=1)  # (C, Q)
    shared = features / counts[:, None]
    matrix = dense.T @ dense - shared.T @ features + 1e-6 * np.eye(dense.shape[1])
    slopes = np.linalg.solve(matrix, dense.T @ gain.T - shared.T @ sums)
    return np.concatenate([slopes, (sums - features @ slopes) / counts[:, None]]).T


def gains(dense: np.ndarray, predicted: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Compute the fitted gains, (Q, N) float64, from coefficients (Q, D + C)."""
    width = dense.shape[1]
    return (fitted[:, :width] @ dense.T + fitted[:, width:][:, predicted]).round(DIGITS)


def scores(so_far: SoFar, learnt: Mapping[str, np.ndarray], **_: Any) -> np.ndarray:
    """Compute the fitted gain of leaving at each branch, (P, K, N) float64."""
    each = enumerate(so_far.predictions)
    return np.stack([gains(dense_features(so_far, k), predicted, learnt[f"branch{k + 1}"]) for k, predicted in each], axis=1)


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Let images leave from a gain of 0 on, and at the points of other policies from their thresholds on: (P, K, C) float64."""
    sweep, at = parameters["sweep"], parameters["at"]
    own = replace(exits, scores=exits.scores[-1])
    others = [at_quantiles(own, at[sweep == "quantile"])]
    others.append(budgeted.thresholds(own, {"deeper": at[sweep == "deeper"]}, correct))
    of_prices = np.zeros((int((sweep == "price").sum()), *others[0].shape[1:]))
    return np.concatenate([of_prices, *others])


def flops(branches: int, classes: int, **_: Any) -> np.ndarray:
    """Count a multiply-add for each dense feature, and looking the class up: (K,)."""
    return np.array([2 * (2 * k + 3) + 1 for k in range(branches)])
