"""Which numbers an option may be, in the interval notation of mathematics: a bracket includes its end, a parenthesis does not.

"[1, inf)": 1 or more. "(0, 1]": more than 0, at most 1. "[0, inf]": 0 or more, and infinity is meaningful too.
"""

from __future__ import annotations

import math
import re

FINITE = "(-inf, inf)"
INTERVAL = re.compile(r"([\[(])\s*([-+.\w]+)\s*,\s*([-+.\w]+)\s*([\])])")


def misfit(value: float, interval: str) -> str | None:
    """Say what is wrong with a number, the end of a sentence that begins with it; None where it lies in the interval.

    Raises ValueError for text that is no interval.
    """
    written = INTERVAL.fullmatch(interval)
    if written is None:
        raise ValueError(f"'{interval}' is no interval; write it like [0, 1] or (0, inf)")
    low, high = float(written[2]), float(written[3])
    if value != value:
        return "is not a number"
    if value < low:
        return f"is less than {low:g}"
    if value > high:
        return f"is more than {high:g}"
    if (value == low and written[1] == "(") or (value == high and written[4] == ")"):
        return "is not finite" if abs(value) == math.inf else f"is not {'more' if value == low else 'less'} than {value:g}"
    return None
