"""What an image costs, in FLOPs: the backbone as far as it went and every head it passed, the declined ones too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """FLOPs of one image. to_tap[k]: the backbone up to tap k. head[k]: branch k's head. backbone: all of it."""

    to_tap: tuple[float, ...]
    head: tuple[float, ...]
    backbone: float

    def by_exit(self) -> np.ndarray:
        """(K + 1,) float64: the cost of leaving at each branch, then of staying for the backbone's answer."""
        paid = np.cumsum(self.head)
        return np.append(np.asarray(self.to_tap, float) + paid, self.backbone + (paid[-1] if len(paid) else 0.0))

    def by_exit_alone(self) -> np.ndarray:
        """(K + 1,) float64: the same, were the other heads free (as if each image knew its exit)."""
        return np.append(np.asarray(self.to_tap, float) + np.asarray(self.head, float), self.backbone)
