"""The operating points of a finished cascade: thresholds, and what each was worth on validation and test images."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import numpy as np

from calex import plugins
from calex.errors import CalexError
from calex.simulation.rule import Rule

# Of each operating point: accuracy and cost on validation images, which choose, and on test images, NaN where unmeasured.
CURVES = ("val_accuracy", "val_flops_fraction", "test_accuracy", "test_flops_fraction")
ROUNDING = 1e-9  # shares of whole counts that are equal up to this are equal


@dataclass(frozen=True)
class Wish:
    """What one asks of an operating point: at least one of the three.

    Parameters
    ----------
    max_flops : float or None
        The most that an image may cost in the mean, as a share of the network's operations.
    min_accuracy : float or None
        The least share of right answers.
    max_drop : float or None
        How much less accurate than the network it may be, as a share of images.
    """

    max_flops: float | None = None
    min_accuracy: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        if self.max_flops is None and self.min_accuracy is None and self.max_drop is None:
            raise CalexError("an operating point is chosen by max_flops, min_accuracy or max_drop; give one")

    def least_accuracy(self, network: float) -> float:
        """The accuracy that is asked for, of a network that has that one itself; −∞ where none is."""
        drop = -np.inf if self.max_drop is None else network - self.max_drop
        return max(drop, -np.inf if self.min_accuracy is None else self.min_accuracy)

    def choose(self, accuracy: np.ndarray, cost: np.ndarray, network: float) -> int | None:
        """Choose among operating points: the cheapest that is accurate enough, or the most accurate that costs little enough.

        Where an accuracy is asked for, the cheapest wins, of equal ones the more accurate; otherwise the most accurate,
        of equal ones the cheaper.

        Parameters
        ----------
        accuracy, cost : (P,) float64
            On validation images, in an order by which ties are broken; the cost as a share of the network's.
        network : float
            The accuracy of the network itself.

        Returns
        -------
        int or None
            Its position; None where no point does.
        """
        least = self.least_accuracy(network)
        fits = accuracy >= least - ROUNDING
        if self.max_flops is not None:
            fits &= cost <= self.max_flops + ROUNDING
        if not fits.any():
            return None
        keys = (-accuracy, cost) if least > -np.inf else (cost, -accuracy)  # the last one first
        order = np.lexsort(keys)
        return int(order[fits[order]][0])

    def __str__(self) -> str:
        named = {"max_flops": self.max_flops, "min_accuracy": self.min_accuracy, "max_drop": self.max_drop}
        return ", ".join(f"{name} {value:g}" for name, value in named.items() if value is not None)


WISHES = tuple(field.name for field in fields(Wish))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give a step's parser the options that `wished` reads."""
    parser.add_argument("--max-flops", type=float, help="the most accurate point of at most this share of the network's FLOPs")
    parser.add_argument("--min-accuracy", type=float, help="the cheapest point of at least this accuracy on validation images")
    parser.add_argument("--max-drop", type=float, help="the cheapest point at most so much less accurate than the network")


def wished(args: argparse.Namespace) -> dict[str, float]:
    """What the options ask of an operating point, fit for `Wish` and `Cascade.at`; nothing where none was given."""
    return {name: value for name in WISHES if (value := getattr(args, name)) is not None}


@dataclass(frozen=True)
class Sweep:
    """P operating points of K branches over C classes.

    Parameters
    ----------
    thresholds : (P, K, C) float64
        The least score at which a branch's answer is taken.
    parameters : list of P str
        What each point was swept at, canonical JSON.
    curves : {name: (P,) float64}
        Each of `CURVES`.
    exit_share : (P, K + 1) float64
        The share of validation images at each exit.
    network : {"val", "test"} → float
        The accuracy of the network itself; NaN where it is unmeasured.
    policy : dict
        The completed block of the policy whose scores are compared with the thresholds.
    learnt : {name: (P, …) or (1, …)}
        What those scores depend on besides, see `calex.simulation.rule.Rule`.
    """

    thresholds: np.ndarray
    parameters: list[str]
    curves: dict[str, np.ndarray]
    exit_share: np.ndarray
    network: dict[str, float]
    policy: dict[str, Any]
    learnt: Mapping[str, np.ndarray] = field(default_factory=dict)

    def rule(self, point: int) -> Rule:
        """The rule by which images leave at an operating point."""
        return self.rules.at(np.array([point]))

    @cached_property
    def rules(self) -> Rule:
        """The rule at all operating points: a plugin is looked for once and not for each batch."""
        policy, options = plugins.load("policies", self.policy["name"]), plugins.options_of(self.policy)
        return Rule(self.thresholds, self.learnt, policy, options)

    def choose(self, wish: Wish) -> int:
        """The operating point that one wishes for, chosen on validation images; a CalexError where there is none."""
        accuracy, cost = self.curves["val_accuracy"], self.curves["val_flops_fraction"]
        point = wish.choose(accuracy, cost, self.network["val"])
        if point is None:
            raise CalexError(
                f"no operating point has {wish}; the cheapest costs {cost.min():.3f} of the network and the most accurate answers "
                f"{accuracy.max():.3f} of the validation images right (the network {self.network['val']:.3f})"
            )
        return point


def without_thresholds(branches: int, classes: int) -> Sweep:
    """One operating point, at which every image goes to the network itself and of which nothing is measured."""
    nothing = {name: np.full(1, np.nan) for name in CURVES}
    share = np.eye(branches + 1)[-1:]
    network = {"val": np.nan, "test": np.nan}
    return Sweep(
        np.full((1, branches, classes), np.inf),
        ["{}"],
        nothing,
        share,
        network,
        plugins.complete("policies", {"name": "global"}, "policy"),
    )
