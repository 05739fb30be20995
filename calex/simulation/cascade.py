"""Running a cascade over cached exits: which image leaves where, and what is answered."""

from __future__ import annotations

import numpy as np

from calex.simulation.exits import Exits

# Thresholds that no score reaches, and that every score reaches.
NEVER, ALWAYS = np.inf, -np.inf


def leave(exits: Exits, thresholds: np.ndarray) -> np.ndarray:
    """Find the exit that each image takes at each operating point.

    An image leaves at the first branch k whose score is at least the threshold of the class predicted there.

    Parameters
    ----------
    exits : Exits
        K branches over N images.
    thresholds : (P, K, C) float64
        τ of each operating point, branch and predicted class; +∞ lets no image leave, −∞ every image.

    Returns
    -------
    (P, N) uint8
        The branch, from 0, at which each image leaves; K is the backbone.

    Examples
    --------
    Two images, one branch and two classes; only class 1 may leave:

    >>> import numpy as np
    >>> from calex.simulation.cost import Costs
    >>> exits = Exits(
    ...     predictions=np.array([[0, 1]]), scores=np.array([[0.9, 0.9]]), labels=np.array([0, 0]),
    ...     backbone=np.array([0, 0]), classes=2, costs=Costs((1.0,), (0.5,), 4.0),
    ... )
    >>> leave(exits, np.array([[[np.inf, 0.5]]]))
    array([[1, 0]], dtype=uint8)
    """
    branches, images = exits.predictions.shape
    taken = np.full((len(thresholds), images), branches, np.uint8)
    for k in reversed(range(branches)):
        ready = exits.scores[..., k, :] >= thresholds[:, k, exits.predictions[k]]
        taken[ready] = k
    return taken


def oracle(exits: Exits, correct: str = "label") -> np.ndarray:
    """Let each image leave at the earliest branch that is right; the backbone answers where none is.

    This needs the answers: it bounds what a better exit rule could gain.

    Parameters
    ----------
    exits : Exits
        K branches over N images.
    correct : {"label", "backbone"}
        What an answer is compared with.

    Returns
    -------
    (1, N) uint8
        The branch, from 0, at which each image leaves; K is the backbone.

    Raises
    ------
    CalexError
        If `correct` is another word.

    Examples
    --------
    Of three images the first branch is right for one and the second for another:

    >>> import numpy as np
    >>> from calex.simulation.cost import Costs
    >>> exits = Exits(
    ...     predictions=np.array([[1, 0, 0], [1, 1, 0]]), scores=np.zeros((2, 3)), labels=np.array([1, 1, 1]),
    ...     backbone=np.array([1, 1, 1]), classes=2, costs=Costs((1.0, 2.0), (0.5, 0.5), 4.0),
    ... )
    >>> oracle(exits)
    array([[0, 1, 2]], dtype=uint8)
    """
    right = exits.predictions == exits.truth(correct)
    branches = len(right)
    return np.where(right.any(axis=0), right.argmax(axis=0), branches).astype(np.uint8)[None]


def predict(exits: Exits, taken: np.ndarray) -> np.ndarray:
    """Look up the class that a cascade answers.

    Parameters
    ----------
    exits : Exits
        K branches over N images.
    taken : (P, N) uint8
        The exit of each image, as `leave` gives it.

    Returns
    -------
    (P, N) int64
        The prediction of the exit that each image took.

    Examples
    --------
    Two images of class 1: the first one leaves at the branch, which is wrong, the second one continues to the backbone:

    >>> import numpy as np
    >>> from calex.simulation.cost import Costs
    >>> exits = Exits(
    ...     predictions=np.array([[0, 0]]), scores=np.zeros((1, 2)), labels=np.array([1, 1]),
    ...     backbone=np.array([1, 1]), classes=2, costs=Costs((1.0,), (0.5,), 4.0),
    ... )
    >>> predict(exits, np.array([[0, 1]], dtype=np.uint8))
    array([[0, 1]])
    """
    answers = exits.answers
    return answers[taken, np.arange(answers.shape[1])]
