"""Which of some trained branches make the best cascade: where branches should sit, and how many.

Branches that were trained each by itself make a cascade in any selection. Every selection is calibrated on validation images
by the policy `budgeted` and read at the same budgets, so that a further branch is charged for what it costs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from calex import plugins
from calex.comparison.paired import Difference, difference
from calex.simulation.cascade import predict
from calex.simulation.cost import Costs
from calex.simulation.evaluation import measure
from calex.simulation.exits import Exits
from calex.simulation.rule import calibrated


class Read(NamedTuple):
    """A selection at B budgets: validation accuracy (B,), NaN where no point fits, and (S, B, N) bool, right on test images."""

    val_accuracy: np.ndarray
    right: np.ndarray


class Best(NamedTuple):
    """The best selection of so many branches at a budget: its branches, from 0, test accuracy, and the difference to all."""

    branches: tuple[int, ...]
    accuracy: float
    difference: Difference


def selected(exits: Exits, branches: Sequence[int]) -> Exits:
    """Keep some branches of a cascade, in their order."""
    kept = list(branches)
    to_tap, head = (tuple(part[k] for k in kept) for part in (exits.costs.to_tap, exits.costs.head))
    costs = Costs(to_tap, head, exits.costs.backbone)
    return replace(exits, predictions=exits.predictions[kept], scores=exits.scores[kept], costs=costs)


def read(seeds: Sequence[tuple[Exits, Exits]], branches: Sequence[int], budgets: Sequence[float]) -> Read:
    """Calibrate a selection for each of S seeds and take the best validation point within each budget.

    seeds: of each, the exits over validation and over test images.
    """
    policy, block = plugins.load("policies", "budgeted"), plugins.complete("policies", {"name": "budgeted"}, "policy")
    options = plugins.options_of(block)
    accuracies, right = [], []
    for val, test in ((selected(val, branches), selected(test, branches)) for val, test in seeds):
        rule = calibrated(policy, val, policy.parameters(**options), "label", options)
        rows = measure(val, rule.leave(val))
        accuracy, cost = rows["accuracy"].to_numpy(), rows["flops_fraction"].to_numpy()
        order = np.lexsort((cost, -accuracy))
        fits = [order[cost[order] <= budget] for budget in budgets]
        points = np.array([fit[0] if len(fit) else 0 for fit in fits])
        accuracies.append([accuracy[fit[0]] if len(fit) else np.nan for fit in fits])
        right.append(predict(test, rule.at(points).leave(test)) == test.labels)
    return Read(np.mean(accuracies, axis=0), np.stack(right))


def selections(count: int) -> Iterator[tuple[int, ...]]:
    """Every selection of at least one of so many branches."""
    return (some for size in range(1, count + 1) for some in combinations(range(count), size))


def best_of_each_size(seeds: Sequence[tuple[Exits, Exits]], budgets: Sequence[float]) -> dict[int, list[Best | None]]:
    """For each number of branches and budget, the selection with the best validation accuracy; None where none fits."""
    count = len(seeds[0][0].predictions)
    reads = {some: read(seeds, some, budgets) for some in selections(count)}
    everything = reads[tuple(range(count))]
    found: dict[int, list[Best | None]] = {}
    for size in range(1, count + 1):
        of_size = [some for some in reads if len(some) == size]
        found[size] = []
        for place in range(len(budgets)):
            fitting = [some for some in of_size if not np.isnan(reads[some].val_accuracy[place])]
            if not fitting:
                found[size].append(None)
                continue
            best = max(fitting, key=lambda some: reads[some].val_accuracy[place])
            right = reads[best].right[:, place]
            found[size].append(Best(best, float(right.mean()), difference(right, everything.right[:, place])))
    return found
