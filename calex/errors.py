"""The one error a user sees: a line that says what is wrong, where, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CalexError(Exception):
    """Bad input. `python -m calex` prints it as one line and leaves with exit code 2."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """The near miss among `known`, or all of them: the end of an error about an unknown `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"
