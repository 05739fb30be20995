"""What an image costs, in FLOPs: the backbone as far as it went and every head it passed, the declined ones too."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Costs:
    """FLOPs of one image in a cascade of K branches; a multiply-add counts as 2.

    Parameters
    ----------
    to_tap : (K,) floats
        The backbone up to each branch's tap.
    head : (K,) floats
        Each branch's head.
    backbone : float
        The whole backbone.

    Examples
    --------
    The second branch's image has paid for the first head too:

    >>> costs = Costs(to_tap=(10.0, 30.0), head=(1.0, 2.0), backbone=100.0)
    >>> costs.by_exit()
    array([ 11.,  33., 103.])
    >>> costs.by_exit_alone()
    array([ 11.,  32., 100.])
    """

    to_tap: tuple[float, ...]
    head: tuple[float, ...]
    backbone: float

    def by_exit(self) -> np.ndarray:
        """Sum up what leaving at each branch costs, and what staying for the backbone's answer does: (K + 1,) float64."""
        paid = np.cumsum(self.head)
        return np.append(np.asarray(self.to_tap, float) + paid, self.backbone + (paid[-1] if len(paid) else 0.0))

    def by_exit_alone(self) -> np.ndarray:
        """Sum up the same as if each image knew its exit, with the other heads free: (K + 1,) float64."""
        return np.append(np.asarray(self.to_tap, float) + np.asarray(self.head, float), self.backbone)
