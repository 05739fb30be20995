"""Class precision margin: per-class thresholds that keep each class as precise as the backbone, less a margin (CalexNet)."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.calibration import precision_margin, support
from calex.exits import Exits

# population: calibrate branch k on the `survivors` of earlier branches at the same margin, or on `all` images.
# min_support: how many validation images of a class must leave for a threshold to be believed.
# steps: how many margins each of [1, 0], [0, −1] and [−1, −2] is swept in, from cheap to the plain backbone.
OPTIONS = {"population": "survivors", "min_support": 5, "steps": 40}
CHOICES = {"population": ["survivors", "all"]}
RANGES = {"min_support": "[1, inf)", "steps": "[1, inf)"}

REMEDY = "lower min_support, or use the policy `global`, which has no threshold a class"


def parameters(steps: int, **_: Any) -> list[dict[str, float]]:
    """The 3·steps + 1 operating points that are swept, cheapest first.

    Above 0 the margins crowd towards 0 (as cubes): a strong backbone's branches leave all together at any bar
    that is far below its own precision.
    """
    part = np.arange(steps) / steps
    margins = np.concatenate([(1 - part) ** 3, 0 - part, -1 - part, [-2.0]])
    return [{"margin": round(float(margin), 9)} for margin in margins]


def thresholds(
    exits: Exits, swept: list[dict[str, float]], correct: str, population: str, min_support: int, **_: Any
) -> np.ndarray:
    """(P, K, C) float64 from validation exits."""
    margins = np.array([point["margin"] for point in swept])
    return precision_margin(exits, margins, correct, population, min_support)


def diagnosis(exits: Exits, min_support: int, remedy: str = REMEDY, **_: Any) -> tuple[dict[str, Any], list[str]]:
    """How many classes have enough validation images for a threshold of their own, at each branch before anything leaves.

    Warns where these are the classes of fewer than half of the images. `remedy` says what helps beside more images.
    """
    classes, share = support(exits.predictions, exits.classes, min_support)
    numbers = {"min_support": min_support, "classes_with_min_support": classes.tolist()}
    few = share < 0.5
    if not few.any():
        return numbers, []
    return numbers, [
        f"at a branch as few as {classes[few].min()} of {exits.classes} classes have min_support ({min_support}) of the "
        f"{exits.predictions.shape[1]} validation images; images that are answered otherwise hardly ever leave there: hold out more "
        f"validation images, {remedy}"
    ]
