"""EENet's networks and their training, in NumPy: the gradients of three losses written out (Ilhan et al., WACV 2024).

The assignment weighs the images of the score's loss, and is not trained through these weights: it would learn to look away from
images whose answers are uncertain, whatever the budget. All budgets train side by side, along a first axis P. K branches, B
images of a batch, D_k inputs at branch k: F of its own, then the scores of the branches before it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

EDGE = 0.01  # scores are kept so far from 0 and 1 where logarithms are taken
KL_WEIGHT, BUDGET_WEIGHT = 1e-3, 1e-2  # the paper's
BETAS = (0.9, 0.999)  # Adam's


class Losses(NamedTuple):
    """The three parts of the loss, (P,) each: of scores, of assignments, of the budget."""

    scores: np.ndarray
    agreement: np.ndarray
    budget: np.ndarray

    @property
    def total(self) -> np.ndarray:
        """Their weighted sum, (P,)."""
        return self.scores + KL_WEIGHT * self.agreement + BUDGET_WEIGHT * self.budget


Parameters = dict[str, np.ndarray]


def initial(points: int, inputs: list[int], hidden: int, seed: int = 0) -> Parameters:
    """Draw the parameters of K branches with D_k inputs; every budget begins alike.

    score{k} (P, D): q_k's linear map. first{k} (P, D, H), first_bias{k} (P, H), second{k} (P, H), bias (P, K + 1): the networks of r_k; the
    backbone's r is a number.
    """
    draw = np.random.default_rng(seed)
    parameters: Parameters = {"bias": np.zeros((points, len(inputs) + 1))}
    for k, width in enumerate(inputs):
        # Of the linear map a small positive start: clipped at 0 everywhere it would have no gradient.
        for name, shape, scale in (
            ("score", (width,), 0.5 / width),
            ("first", (width, hidden), 1 / np.sqrt(width)),
            ("first_bias", (hidden,), 0.0),
            ("second", (hidden,), 1 / np.sqrt(hidden)),
        ):
            values = np.abs(draw.normal(0, 1, shape)) if name == "score" else draw.normal(0, 1, shape)
            parameters[f"{name}{k}"] = np.repeat((scale * values)[None], points, axis=0)
    return parameters


def scores(parameters: Parameters, own: list[np.ndarray]) -> list[np.ndarray]:
    """Compute q_k, (P, B) in [0, 1], from each branch's own inputs (B, F) and the q of the branches before it."""
    found: list[np.ndarray] = []
    for k, inputs in enumerate(own):
        weights = parameters[f"score{k}"]
        total = weights[:, : inputs.shape[1]] @ inputs.T
        for j, before in enumerate(found):
            total = total + weights[:, inputs.shape[1] + j, None] * before
        found.append(np.clip(total, 0, 1))
    return found


def assignments(parameters: Parameters, own: list[np.ndarray], q: list[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Compute π, (P, B, K + 1), which exit each image is assigned to, and the hidden layers' values, (P, B, H) each."""
    hidden, logits = [], []
    for k, inputs in enumerate(own):
        first = parameters[f"first{k}"]
        value = np.matmul(inputs[None], first[:, : inputs.shape[1]]) + parameters[f"first_bias{k}"][:, None]
        for j in range(k):
            value = value + q[j][:, :, None] * first[:, None, inputs.shape[1] + j]
        hidden.append(np.maximum(value, 0))
        logits.append((hidden[k] * parameters[f"second{k}"][:, None]).sum(2) + parameters["bias"][:, k, None])
    logits.append(np.broadcast_to(parameters["bias"][:, -1, None], logits[0].shape))
    raw = np.stack(logits, axis=2)
    pi = np.exp(raw - raw.max(axis=2, keepdims=True))
    return pi / pi.sum(axis=2, keepdims=True), hidden


def loss_and_gradient(
    parameters: Parameters, own: list[np.ndarray], right: np.ndarray, cost: np.ndarray, budgets: np.ndarray
) -> tuple[Losses, Parameters]:
    """Compute the loss of a batch and its gradient.

    own: each branch's inputs, (B, F). right: (K, B) bool. cost: (K + 1,), budgets: (P,), in one unit.
    """
    q, branches, images = scores(parameters, own), len(own), right.shape[1]
    pi, hidden = assignments(parameters, own, q)
    safe = np.clip(np.stack(q, axis=2), EDGE, 1 - EDGE)  # (P, B, K)
    target = right.T[None].astype(float)
    cross_entropy = -(target * np.log(safe) + (1 - target) * np.log1p(-safe))
    share = pi[:, :, :branches].sum(axis=1, keepdims=True)
    weight = pi[:, :, :branches] / share
    mean = (weight * cross_entropy).sum(axis=1, keepdims=True)

    everyone = np.concatenate([safe, np.ones((*safe.shape[:2], 1))], axis=2)  # the backbone may always answer
    normal = everyone / everyone.sum(axis=2, keepdims=True)
    ratio = np.log(normal / np.maximum(pi, 1e-30))
    divergence = (normal * ratio).sum(axis=2, keepdims=True)
    spent = (pi @ cost).mean(axis=1)
    losses = Losses(mean[:, 0].sum(axis=1), divergence[:, :, 0].mean(axis=1), np.abs(spent - budgets) / budgets)

    by_pi = (BUDGET_WEIGHT * np.sign(spent - budgets) / budgets / images)[:, None, None] * cost
    by_logit = pi * (by_pi - (by_pi * pi).sum(axis=2, keepdims=True)) + KL_WEIGHT / images * (pi - normal)
    by_q = weight * (safe - target) / (safe * (1 - safe))
    by_q += KL_WEIGHT / images * (ratio - divergence)[:, :, :branches] / everyone.sum(axis=2, keepdims=True)

    gradient = {name: np.zeros_like(value) for name, value in parameters.items()}
    gradient["bias"] = by_logit.sum(axis=1)
    for k in reversed(range(branches)):
        width = own[k].shape[1]
        by_hidden = by_logit[:, :, k, None] * parameters[f"second{k}"][:, None] * (hidden[k] > 0)
        gradient[f"second{k}"] = np.einsum("pb,pbh->ph", by_logit[:, :, k], hidden[k])
        gradient[f"first_bias{k}"] = by_hidden.sum(axis=1)
        gradient[f"first{k}"][:, :width] = np.matmul(own[k].T[None], by_hidden)
        for j in range(k):
            gradient[f"first{k}"][:, width + j] = np.einsum("pb,pbh->ph", q[j], by_hidden)
            by_q[:, :, j] += np.einsum("pbh,ph->pb", by_hidden, parameters[f"first{k}"][:, width + j])
        # A score that is clipped learns only in the direction in which it comes back: else it never would.
        by_total = np.where(
            q[k] <= 0, np.minimum(by_q[:, :, k], 0), np.where(q[k] >= 1, np.maximum(by_q[:, :, k], 0), by_q[:, :, k])
        )
        gradient[f"score{k}"][:, :width] = by_total @ own[k]
        for j in range(k):
            gradient[f"score{k}"][:, width + j] = (by_total * q[j]).sum(axis=1)
            by_q[:, :, j] += by_total * parameters[f"score{k}"][:, width + j, None]
    return losses, gradient


def train(
    own: list[np.ndarray], right: np.ndarray, cost: np.ndarray, budgets: np.ndarray,
    hidden: int, epochs: int, batch_size: int, learning_rate: float, weight_decay: float,
) -> Parameters:  # fmt: skip
    """Minimise the loss by Adam with decoupled weight decay, for all budgets at once; see `loss_and_gradient`."""
    inputs = [each.shape[1] + k for k, each in enumerate(own)]
    parameters = initial(len(budgets), inputs, hidden)
    first = {name: np.zeros_like(value) for name, value in parameters.items()}
    second = {name: np.zeros_like(value) for name, value in parameters.items()}
    draw, step, images = np.random.default_rng(1), 0, right.shape[1]
    for _ in range(epochs):
        shuffled = draw.permutation(images)
        for start in range(0, images, batch_size):
            batch, step = shuffled[start : start + batch_size], step + 1
            _, gradient = loss_and_gradient(parameters, [each[batch] for each in own], right[:, batch], cost, budgets)
            for name, slope in gradient.items():
                first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * slope
                second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * slope**2
                move = (first[name] / (1 - BETAS[0] ** step)) / (np.sqrt(second[name] / (1 - BETAS[1] ** step)) + 1e-8)
                parameters[name] = (1 - learning_rate * weight_decay) * parameters[name] - learning_rate * move
    return parameters
