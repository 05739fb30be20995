"""Class precision margin: per-class thresholds that keep each class as precise as the backbone, less a margin (CalexNet)."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex.calibration import precision_margin
from calex.exits import Exits

# population: calibrate branch k on the `survivors` of earlier branches at the same margin, or on `all` images.
# min_support: how many validation images of a class must leave for a threshold to be believed.
# points: how many margins from 1 (cheap) to −2 (the plain backbone).
OPTIONS = {"population": "survivors", "min_support": 5, "points": 121}
CHOICES = {"population": ["survivors", "all"]}


def parameters(points: int, **_: Any) -> list[dict[str, float]]:
    """The operating points that are swept, cheapest first."""
    return [{"margin": round(float(margin), 6)} for margin in np.linspace(1, -2, points)]


def thresholds(exits: Exits, swept: list[dict[str, float]], correct: str, population: str, min_support: int, **_: Any) -> np.ndarray:
    """(P, K, C) float64 from validation exits."""
    margins = np.array([point["margin"] for point in swept])
    return precision_margin(exits, margins, correct, population, min_support)
