"""Soft survivor weights: an image counts for a branch as it is likely to reach it (CalexNet). Sharpness 0 is BTS-EE's hard cut."""

from __future__ import annotations

from typing import Any

import numpy as np

from calex import survivors
from calex.calibration import precision_margin
from calex.exits import Exits
from calex.policies import cpm

SEQUENTIAL = True

# train_margin: the margin m at which earlier branches are calibrated for this. sharpness: β, in units of the
# score; 0 is a hard cut, infinity (`.inf`) weighs all alike. floor: ε, the least survival that counts. min_support: as in the policy `cpm`.
OPTIONS = {"train_margin": 0.0, "sharpness": 0.1, "floor": 0.05, "min_support": 5}
RANGES = {"train_margin": "[-2, 1]", "sharpness": "[0, inf]", "floor": "[0, 1]", "min_support": "[1, inf)"}


def survival(
    validation: Exits, train: Exits, correct: str, train_margin: float, sharpness: float, min_support: int, **_: Any
) -> np.ndarray:
    """u of each view of each training image, in [0, 1]: the chance that it passes all branches before, calibrated at `train_margin`."""
    thresholds = precision_margin(validation, np.array([train_margin]), correct, "survivors", min_support)[0]
    return survivors.survival(train.scores, train.predictions, thresholds, sharpness)


def weights(u: np.ndarray, floor: float, **_: Any) -> np.ndarray:
    """w of each view of each training image, of mean 1, from its survival u; `floor` is ε."""
    return survivors.weights(u, floor)


def diagnosis(
    validation: Exits, u: np.ndarray, min_support: int, sharpness: float, **_: Any
) -> tuple[dict[str, Any], list[str]]:
    """Whether there are enough validation images to say who survives, and whether survival says anything."""
    numbers, warnings = cpm.diagnosis(validation, min_support, "lower weighting.min_support, or use the weighting `uniform`")
    if u.any() and np.ptp(u) == 0 and np.isfinite(sharpness):
        warnings.append(
            f"every training image survives alike ({u.flat[0]:.3g}), so the weights are all 1, as with `uniform`; "
            "raise train_margin, or lower min_support"
        )
    return numbers, warnings
