"""A calibrated policy as it is applied: what it learnt, the score that it makes of the exits so far, and its thresholds.

An image leaves at the first branch whose score is at least the threshold of the class that it predicts. The score is the
method's, or what the policy's `scores` makes of all exits up to that branch: never of later ones, so that a cascade that
runs decides as an evaluation over stored exits does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from calex.simulation import cascade
from calex.simulation.exits import Exits, SoFar


@dataclass(frozen=True)
class Rule:
    """A policy at P operating points of K branches over C classes.

    Parameters
    ----------
    thresholds : (P, K, C) float64
        The least score with which a branch may answer a class.
    learnt : {name: (P, …) or (1, …)}
        What the policy's scores depend on; a first axis of 1 stands for all points.
    policy : module
        The plugin, with functions as in `calex.plugins.contracts.Policy`; None for thresholds on the method's own score.
    options : dict
        Its options.
    """

    thresholds: np.ndarray
    learnt: Mapping[str, np.ndarray] = field(default_factory=dict)
    policy: Any = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def at(self, points: np.ndarray) -> Rule:
        """Select some of the operating points, by their numbers."""
        learnt = {name: value if len(value) == 1 else value[points] for name, value in self.learnt.items()}
        return replace(self, thresholds=self.thresholds[points], learnt=learnt)

    def leave(self, exits: Exits) -> np.ndarray:
        """Find the exit that each image takes, (P, N) uint8, as `calex.simulation.cascade.leave` gives it."""
        return cascade.leave(scored(self.policy, exits, self.learnt, self.options), self.thresholds)

    def ready(self, so_far: SoFar) -> np.ndarray:
        """Tell which images leave at the last of the exits so far, if they came to it: (P, N) bool."""
        k = len(so_far.predictions) - 1
        scores = policy_scores(self.policy, so_far, self.learnt, self.options)
        return scores[..., k, :] >= self.thresholds[:, k, so_far.predictions[k]]


def calibrated(policy: Any, exits: Exits, parameters: dict[str, np.ndarray], correct: str, options: Mapping[str, Any]) -> Rule:
    """Calibrate a policy on validation exits whose scores are the method's own."""
    learnt = policy.learn(exits, parameters, correct, **options) if hasattr(policy, "learn") else {}
    own = scored(policy, exits, learnt, options)
    return Rule(policy.thresholds(own, parameters, correct, **options), learnt, policy, options)


def scored(policy: Any, exits: Exits, learnt: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> Exits:
    """Give exits the scores that a policy compares with its thresholds."""
    return replace(exits, scores=policy_scores(policy, exits.so_far, learnt, options)) if hasattr(policy, "scores") else exits


def policy_scores(policy: Any, so_far: SoFar, learnt: Mapping[str, np.ndarray], options: Mapping[str, Any]) -> np.ndarray:
    """Compute what a policy compares with its thresholds, (K, N) or (P, K, N): without `scores` of its own, the method's score."""
    return policy.scores(so_far, learnt, **options) if hasattr(policy, "scores") else so_far.scores


def charged(policy: Any, exits: Exits, options: Mapping[str, Any]) -> Exits:
    """Add to each branch's head what the policy's own score costs there."""
    if not hasattr(policy, "flops"):
        return exits
    more = policy.flops(len(exits.predictions), exits.classes, **options)
    head = tuple(float(own + extra) for own, extra in zip(exits.costs.head, more, strict=True))
    return replace(exits, costs=replace(exits.costs, head=head))
