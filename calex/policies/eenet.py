"""A learnt score for each exit and a share of the images for each, for a budget (EENet, Ilhan et al., WACV 2024).

q_k, how likely branch k is to be right, is a linear map, clipped to [0, 1], of its softmax, the softmax's maximum, 1 − H/log C and the q
of the branches before. Beside it a small network assigns images to exits, so that the mean cost comes near the budget. Both
are trained together on one half of the validation images; on the other, thresholds let the share of each exit leave, of the
images that remain those with the largest q_k. As the paper describes it: the released code never sets gradients back to 0.
The paper's learning rate, 3e-5, moves little in so few steps as a validation set gives; the default is larger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from calex.policies import _eenet
from calex.policies.budgeted import cut
from calex.simulation.cascade import ALWAYS, NEVER
from calex.simulation.exits import Exits, SoFar

LOG_SOFTMAX = True
DIGITS = 9  # of scores: sums of products in another order, for fewer images, differ in their last bits
ALL_LEAVE, NONE_LEAVES = -1.0, 2.0  # thresholds outside of q's range

# steps: steps + 1 budgets. hidden: width of the assigning networks. epochs … weight_decay: of Adam, over half of validation.
OPTIONS = {"steps": 20, "hidden": 16, "epochs": 60, "batch_size": 128, "learning_rate": 0.01, "weight_decay": 0.01}
RANGES = {
    "steps": "[1, inf)",
    "hidden": "[1, inf)",
    "epochs": "[0, inf)",
    "batch_size": "[1, inf)",
    "learning_rate": "(0, inf)",
    "weight_decay": "[0, inf)",
}

REMEDY = "or choose the policy `global`, which learns no scores"


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep the budget from the cost of the first exit, 0, to that of the last, 1: {"budget": (P,) float64}."""
    return {"budget": (np.arange(steps + 1) / steps).round(9)}


def halves(images: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut images in half at random, the same way each time: those that fit and those that cut. One image does both."""
    shuffled = np.random.default_rng(2).permutation(images)
    middle = max(images // 2, 1)
    return np.sort(shuffled[:middle]), np.sort(shuffled[middle:] if images > 1 else shuffled)


def own_inputs(so_far: SoFar) -> list[np.ndarray]:
    """Describe images at each branch by p_k, max p_k and 1 − H/log C: (N, C + 2) float64 each."""
    assert so_far.log_probabilities is not None
    described = []
    for log_p in so_far.log_probabilities.astype(np.float64):
        p = np.exp(log_p)
        entropy = -(p * log_p).sum(axis=1) / np.log(max(p.shape[1], 2))
        described.append(np.column_stack([p, p.max(axis=1), 1 - entropy]))
    return described


def learn(exits: Exits, parameters: dict[str, np.ndarray], correct: str, steps: int, **training: Any) -> dict[str, np.ndarray]:
    """Train on one half of the images, cut on the other: {"score1": (P, C + 2), "score2": (P, C + 3), …, "cuts": (P, K)}."""
    fitting, cutting = (exits.of(half) for half in halves(len(exits.labels)))
    cost = exits.costs.by_exit() / exits.costs.backbone
    budgets = cost[0] + parameters["budget"] * (cost[-1] - cost[0])
    own, right = own_inputs(fitting.so_far), fitting.predictions == fitting.truth(correct)
    trained = _eenet.train(own, right, cost, budgets, **training)
    assigned, _ = _eenet.assignments(trained, own, _eenet.scores(trained, own))
    q = np.stack(_eenet.scores(trained, own_inputs(cutting.so_far)), axis=1).round(DIGITS)
    cuts = np.stack([cut_shares(each, share) for each, share in zip(q, assigned.mean(axis=1), strict=True)])
    cuts[parameters["budget"] <= 0], cuts[parameters["budget"] >= 1] = ALL_LEAVE, NONE_LEAVES
    return {**{f"score{k + 1}": trained[f"score{k}"] for k in range(len(own))}, "cuts": cuts}


def cut_shares(q: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Let the share of each exit leave, in turn, of those that remain the ones with the largest q: thresholds (K,).

    q: (K, N) in [0, 1]. shares: (K + 1,), with sum 1.
    """
    staying, cuts = np.ones(q.shape[1], bool), np.empty(len(q))
    for k, scores in enumerate(q):
        remaining = shares[k:].sum()
        threshold = cut(np.sort(scores[staying])[::-1], shares[k] / remaining if remaining > 0 else 1.0)
        cuts[k] = {ALWAYS: ALL_LEAVE, NEVER: NONE_LEAVES}.get(threshold, threshold)
        staying &= scores < cuts[k]
    return cuts


def scores(so_far: SoFar, learnt: Mapping[str, np.ndarray], **_: Any) -> np.ndarray:
    """Compute by how much q_k exceeds its threshold: (P, K, N) float64."""
    own = own_inputs(so_far)
    q = _eenet.scores({f"score{k}": learnt[f"score{k + 1}"] for k in range(len(own))}, own)
    return (np.stack(q, axis=1) - learnt["cuts"][:, : len(own), None]).round(DIGITS)


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Let images leave from 0 on: (P, K, C) float64."""
    return np.zeros((len(parameters["budget"]), len(exits.predictions), exits.classes))


def flops(branches: int, classes: int, **_: Any) -> np.ndarray:
    """Count a multiply-add for each input of q_k, (K,); the assigning networks are not run."""
    return 2.0 * (classes + 2 + np.arange(branches))
