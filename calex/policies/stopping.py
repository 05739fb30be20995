"""The best thresholds for a price of computing: one a branch, found by exact line searches on validation images.

At a price x in [0, 1] the mean reward of an image is to be as large as it can be: (1 − x)·1{answered right} − x·cost, with
the cost as a share of the backbone's. All other thresholds being fixed, the best one of branch k is found exactly: of the
images that reach it, sort the gains of leaving there over going on, and cut where their sum is largest. Branches are
searched from the deepest to the first until none gains, from several starts: the best points of the policies `global` and
`budgeted` at this price, what was best at the price before, and the backbone alone.

Only points of the convex hull appear; between them lie the points of the two other policies, which are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.policies import budgeted
from calex.policies._pooled import at_quantiles, quantiles
from calex.simulation.cascade import ALWAYS, NEVER
from calex.simulation.exits import Exits

# steps: steps + 1 prices; each of the two other policies offers 3·steps + 1 points.
OPTIONS = {"steps": 40}
RANGES = {"steps": "[2, inf)"}

REMEDY = "or choose the policy `global`, which fits one number instead of one a branch"

CHEAP, DEAR = 1e-3, 10.0  # the ends of the prices of a whole backbone, in right answers
GAIN = 1e-12  # a smaller gain in the mean reward is a rounding


def prices(steps: int) -> np.ndarray:
    """Spread steps + 1 prices from 1 to 0, even in their logarithm between the ends: (steps + 1,) float64."""
    price = np.geomspace(DEAR, CHEAP, steps - 1)
    return np.concatenate([[1.0], price / (1 + price), [0.0]]).round(9)


def parameters(steps: int, **_: Any) -> dict[str, np.ndarray]:
    """Sweep prices from 1 to 0, then the points of the policies `global` and `budgeted`: {"sweep", "at": (P,)}."""
    of_prices = prices(steps)
    by_quantile, by_share = quantiles(3 * steps)["quantile"], budgeted.parameters(3 * steps)["deeper"]
    names = ["price"] * len(of_prices) + ["quantile"] * len(by_quantile) + ["deeper"] * len(by_share)
    return {"sweep": np.array(names), "at": np.concatenate([of_prices, by_quantile, by_share])}


def thresholds(exits: Exits, parameters: dict[str, np.ndarray], correct: str, **_: Any) -> np.ndarray:
    """Find the thresholds of each price, and those of the two other policies: (P, K, C) float64."""
    sweep, at = parameters["sweep"], parameters["at"]
    starts = np.concatenate(
        [
            at_quantiles(exits, at[sweep == "quantile"]),
            budgeted.thresholds(exits, {"deeper": at[sweep == "deeper"]}, correct),
        ]
    )[:, :, 0]
    cuts = np.concatenate([best_cuts(exits, at[sweep == "price"], starts, correct), starts])
    return np.broadcast_to(cuts[:, :, None], (*cuts.shape, exits.classes)).copy()


def rewards(exits: Exits, price: float, correct: str) -> np.ndarray:
    """Compute what each image earns at each exit, (K + 1, N) float64: (1 − x)·1{right} − x·cost."""
    right = exits.answers == exits.truth(correct)
    cost = exits.costs.by_exit() / exits.costs.backbone
    return (1 - price) * right - price * cost[:, None]


def best_cuts(exits: Exits, prices: np.ndarray, starts: np.ndarray, correct: str) -> np.ndarray:
    """Search the best thresholds at each price.

    Parameters
    ----------
    exits : Exits
        K branches over N validation images.
    prices : (Q,) float64
        x, in [0, 1].
    starts : (S, K) float64
        Thresholds to begin from; at each price the two best, that of the price before, and the backbone alone.
    correct : {"label", "backbone"}
        What an answer is compared with.

    Returns
    -------
    (Q, K) float64
        Never of less mean reward on these images than any start.
    """
    search = LineSearch(exits)
    given = [np.full(len(exits.scores), NEVER), *starts]
    # What a start is worth at any price follows from its rewards at the two ends.
    only_right, only_cost = (
        np.array([search.mean_reward(cuts, rewards(exits, x, correct)) for cuts in given]) for x in (0.0, 1.0)
    )
    found: list[np.ndarray] = []
    for price in prices.tolist():
        reward = rewards(exits, price, correct)
        order = np.argsort(-((1 - price) * only_right + price * only_cost), kind="stable")
        chosen = dict.fromkeys([*order[:2].tolist(), 0])
        ends = [search.improve(cuts, reward) for cuts in [*(given[place] for place in chosen), *found[-1:]]]
        values = [search.mean_reward(cuts, reward) for cuts in ends]
        found.append(ends[int(np.argmax(values))])
    return np.stack(found) if found else np.empty((0, len(exits.scores)))


class LineSearch:
    """Coordinate ascent over one threshold a branch, each step exact. Equal scores leave or stay together."""

    def __init__(self, exits: Exits) -> None:
        self.scores = exits.scores
        self.order = np.argsort(-self.scores, axis=1, kind="stable")

    def taken(self, cuts: np.ndarray) -> np.ndarray:
        """Find the exit of each image under thresholds (K,): (N,) int64."""
        ready = self.scores >= cuts[:, None]
        return np.where(ready.any(axis=0), ready.argmax(axis=0), len(cuts))

    def mean_reward(self, cuts: np.ndarray, reward: np.ndarray) -> float:
        """Compute the mean over images of the reward (K + 1, N) at the exit that each takes."""
        images = reward.shape[1]
        return float(reward[self.taken(cuts), np.arange(images)].sum() / max(images, 1))

    def improve(self, cuts: np.ndarray, reward: np.ndarray) -> np.ndarray:
        """Search the branches from the deepest to the first until no threshold gains; returns thresholds (K,)."""
        cuts = cuts.copy()
        gained = True
        while gained:
            gained = False
            for k in reversed(range(len(cuts))):
                cut, gain = self.best_cut(k, cuts, reward)
                if gain > GAIN:
                    cuts[k], gained = cut, True
        return cuts

    def best_cut(self, k: int, cuts: np.ndarray, reward: np.ndarray) -> tuple[float, float]:
        """Find the best threshold of branch k, the others being fixed, and by how much it raises the mean reward."""
        images = reward.shape[1]
        reaches = np.logical_not((self.scores[:k] >= cuts[:k, None]).any(axis=0))
        later = np.where(np.arange(len(cuts)) > k, cuts, NEVER)
        going_on = reward[self.taken(later), np.arange(images)]
        order = self.order[k][reaches[self.order[k]]]
        if not len(order):
            return cuts[k], 0.0
        score = self.scores[k, order]
        # sums[n]: the gain if the n highest scores leave; only where a run of equal scores ends may it be cut.
        sums = np.append(0.0, np.cumsum(reward[k, order] - going_on[order]))
        ends = np.concatenate([[0], np.flatnonzero(score[1:] != score[:-1]) + 1, [len(order)]])
        best = int(ends[np.argmax(sums[ends])])
        now = int((score >= cuts[k]).sum())
        cut = NEVER if best == 0 else ALWAYS if best == len(order) else float(score[best - 1])
        return cut, float(sums[best] - sums[now]) / images
