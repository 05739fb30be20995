"""One file a weighting, with the functions of `calex.plugins.contracts.SequentialWeighting`, or with none.

It may also have `diagnosis(validation, u, **options)`, with the u of all views (V, N): numbers by name, for
`weights{k}.json`, and warnings, one line each.
"""

from __future__ import annotations

import numpy as np


def effective_sample_size(weights: np.ndarray) -> float:
    """Compute how many equally weighted images the weights are worth, (Σw)² / Σw² (Kish 1965).

    Parameters
    ----------
    weights : float64, any shape
        Not negative, not all 0.

    Returns
    -------
    float
        Between 1 and the number of weights.

    Examples
    --------
    >>> import numpy as np
    >>> effective_sample_size(np.array([3.0, 1.0]))
    1.6
    """
    return float(weights.sum() ** 2 / np.square(weights).sum())
