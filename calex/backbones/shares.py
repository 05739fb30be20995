"""Where `taps: auto` puts branches: after these shares of the network's FLOPs.

Four branches, the first of them early, are what the study of taps supports (results/studies/heads.md).
"""

from __future__ import annotations

SHARES = (0.06, 0.35, 0.48, 0.65)
