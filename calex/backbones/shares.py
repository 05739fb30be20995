"""Where `taps: auto` puts branches: after these shares of the network's FLOPs.

Four branches, the first of them early, are what the study of taps supports (results/studies/heads.md).
"""

from __future__ import annotations

from collections.abc import Sequence

SHARES = (0.06, 0.35, 0.48, 0.65)


def branches(taps: Sequence[str] | str) -> int:
    """How many branches a config's `taps` make: its names, or `auto`."""
    return len(SHARES) if taps == "auto" else len(taps)
