"""The cheapest operating point of another policy that is certified to be hardly worse than the backbone.

Two risks: `drop`, by how much the cascade's accuracy is below the backbone's; `disagreement`, how often it answers
otherwise. With confidence 1 − δ over the validation images, the risk of the chosen point is at most ε on images like them.

The operating points of `path` are calibrated on one half of the validation images and put in order there, from dear to
cheap. The other half, which chose nothing, tests them in that order, and the last one before the first failure is taken
(Learn then Test, Angelopoulos et al. 2021; for early exits Jazbec et al., NeurIPS 2024). If the first fails, the backbone
answers everything, which needs no test. Each bound ε is a promise by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from calex.comparison.pareto import front
from calex.errors import CalexError
from calex.policies._certificates import Counts, fixed_sequence, images_needed, p_value, rejected
from calex.simulation import cascade
from calex.simulation.evaluation import measure
from calex.simulation.exits import Exits
from calex.simulation.rule import Rule

OVER = True
LAST = ["backbone"]

# path: an entry of `policies`. risk: `drop` of the accuracy, or `disagreement` with the backbone. bounds: each ε.
# confidence: 1 − δ.
OPTIONS = {"path": "stopping", "risk": "drop", "bounds": [0.005, 0.01, 0.02, 0.05], "confidence": 0.9}
CHOICES = {"risk": ["drop", "disagreement"]}
RANGES = {"confidence": "(0, 1)"}


def parameters(bounds: list[float], **_: Any) -> dict[str, np.ndarray]:
    """Return the bounds, the largest first: {"bound": (P,) float64}."""
    if not bounds or any(
        isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < 1 for bound in bounds
    ):
        raise CalexError(f"policies: risk: bounds: expected numbers between 0 and 1, got {bounds}")
    return {"bound": np.array(sorted({float(bound) for bound in bounds}, reverse=True))}


def choose(
    exits: Exits, calibrate: Callable[[Exits], Rule], parameters: dict[str, np.ndarray], risk: str, confidence: float, **_: Any
) -> tuple[Rule, dict[str, Any], list[str]]:
    """Choose and certify a point for each bound; the numbers are `certificates`, one for each; a warning if none is.

    exits: of validation images, which are cut in half at random. calibrate: calibrates the other policy on some images.
    """
    shuffled = np.random.default_rng(1).permutation(len(exits.labels))
    half = len(shuffled) // 2
    if not half:
        raise CalexError("policies: risk: one validation image cannot be cut in half; hold out more")
    learning, testing = exits.of(np.sort(shuffled[:half])), exits.of(np.sort(shuffled[half:]))
    rule = calibrate(learning)
    order = path_order(learning, rule, risk)
    counts = counted(testing, rule.at(order).leave(testing), risk)
    cost = measure(testing, rule.at(order).leave(testing))["flops_fraction"].to_list()
    points: list[int] = []
    certificates: list[dict[str, Any]] = []
    warnings: list[str] = []
    delta = round(1 - confidence, 12)
    for epsilon in parameters["bound"].tolist():
        passed = certified(counts, risk, epsilon, delta)
        points.append(int(order[passed - 1]) if passed else -1)
        certificate = {
            "bound": epsilon,
            "risk": risk,
            "confidence": confidence,
            "images": len(testing.labels),
            "passed": passed,
        }
        if passed:
            last = counts[passed - 1]
            certificate |= {"harms": last.harms, "gains": last.gains, "cost": cost[passed - 1]}
            certificate |= {"p": p_value(risk, last, epsilon)}
        else:
            certificate["needed"] = images_needed(risk, counts[0], epsilon, delta) if counts else None
        certificates.append(certificate)
    if max(points) < 0:  # then the largest bound comes nearest
        first = certificates[0]
        warnings = [refusal(risk, first["bound"], confidence, first["images"], first["needed"])]
    chosen = rule.at(np.maximum(points, 0))
    nobody = np.array(points) < 0
    thresholds = np.where(nobody[:, None, None], cascade.NEVER, chosen.thresholds)
    return replace(chosen, thresholds=thresholds), {"certificates": certificates}, warnings


def path_order(learning: Exits, rule: Rule, risk: str) -> np.ndarray:
    """Order the operating points to be tested, from dear to cheap, by the learning half alone: their numbers.

    A point that another one beats there is left out, and so are those that are no cheaper than the backbone alone.
    """
    rows = measure(learning, rule.leave(learning))
    cost = rows["flops"].to_numpy()
    worth = rows["accuracy" if risk == "drop" else "agreement"].to_numpy()
    candidates = np.flatnonzero(front(worth, cost) & (cost < learning.costs.backbone))
    _, first = np.unique(cost[candidates], return_index=True)
    return candidates[first][::-1]


def counted(testing: Exits, taken: np.ndarray, risk: str) -> list[Counts]:
    """Count harms and gains of each operating point, exits (P, N)."""
    answers = cascade.predict(testing, taken)
    if risk == "drop":
        mine, backbone = answers == testing.labels, testing.backbone == testing.labels
        harms, gains = (backbone & ~mine).sum(axis=1), (mine & ~backbone).sum(axis=1)
    else:
        harms = (answers != testing.backbone).sum(axis=1)
        gains = np.zeros_like(harms)
    return [Counts(int(h), int(g), len(testing.labels)) for h, g in zip(harms, gains, strict=True)]


def certified(counts: list[Counts], risk: str, epsilon: float, delta: float) -> int:
    """Count the points of a path that are certified, one after the other."""
    if not counts:
        return 0
    harms, gains = (np.array([getattr(each, name) for each in counts]) for name in ("harms", "gains"))
    return int(fixed_sequence(rejected(risk, harms, gains, counts[0].images, epsilon, delta)))


def refusal(risk: str, epsilon: float, confidence: float, images: int, needed: int | None) -> str:
    """Say that nothing is promised, and what would help."""
    about = f"a {risk} of at most {100 * epsilon:g}% with confidence {100 * confidence:g}%"
    if needed is None:
        return f"{about} cannot be promised: even the dearest point does worse on the {images} images that test it; use a larger bound"
    more = 2 * math.ceil(max(needed - images, 1))
    return (
        f"{about} cannot be promised from the {images} images that test it: about {more:,} more validation images would do, if they "
        "were like these, or a larger bound"
    )
