"""Running out of memory in one line, whichever library ran out: where, how much was requested, and what to lower."""

from __future__ import annotations

import errno
import re
import traceback

# What torch, which has no MemoryError, says of the CPU's memory and of a GPU's.
TORCH = re.compile(r"can't allocate memory|out of memory", re.IGNORECASE)
# The part of a message that says how much was requested: NumPy's, torch's.
REQUESTED = re.compile(
    r"(unable to allocate|tried to allocate) [\d.]+ ?\w+( for an array with shape \([\d, ]*\))?", re.IGNORECASE
)


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there was not enough memory."""
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and bool(TORCH.search(str(error)))


def described(error: BaseException) -> str:
    """Where it happened, as the last function of this package that was entered, and what was requested, if that is known."""
    ours = [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_name}"
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith("calex.") and not frame.f_code.co_name.startswith("<")
    ]
    requested = REQUESTED.search(str(error))
    where = f" in {ours[-1]}" if ours else ""
    return f"not enough memory{where}" + (f" ({requested[0][0].lower()}{requested[0][1:]})" if requested else "")
