"""What answers the images that no branch answers: the backbone as it is, or the backbone and the last branch together.

A branch that learnt from labels errs on other images than the backbone, so that both together are often right where one is not.
That costs next to nothing: the last branch has been computed for each image that reaches the end.
"""

from __future__ import annotations

import numpy as np

from calex.simulation.exits_file import half

LAST = ("backbone", "combined")


def combined(backbone: np.ndarray, branch: np.ndarray) -> np.ndarray:
    """Multiply the probabilities of the backbone and of the last branch.

    Parameters
    ----------
    backbone, branch : (N, C)
        Log-probabilities of each. They are rounded to float16, in which a run stores them, so that a cascade that runs answers
        as an evaluation over stored exits does.

    Returns
    -------
    (N, C) float32
        Log-probabilities, normalised.

    Examples
    --------
    The backbone is undecided, the branch is not:

    >>> combined(np.log([[0.5, 0.5]]), np.log([[0.2, 0.8]])).argmax(1)
    array([1])
    """
    total = half(backbone).astype(np.float32) + half(branch).astype(np.float32)
    total -= total.max(axis=1, keepdims=True)
    return total - np.log(np.exp(total).sum(axis=1, keepdims=True))
