"""The one error a user sees: a line that says what is wrong, where, and how to correct it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation


class CalexError(Exception):
    """Bad input. `python -m calex` prints it as one line and leaves with exit code 2.

    Several faults that are reported together are several arguments.
    """

    def __str__(self) -> str:
        """Return all faults in one line."""
        return "; ".join(map(str, self.args))


class Faults(list[str]):
    """All that is wrong with something, one text each: who corrects it wants to see everything in one run."""

    @contextmanager
    def gather(self) -> Iterator[None]:
        """Take a CalexError's faults down instead of ending with the first."""
        try:
            yield
        except CalexError as error:
            self.extend(map(str, error.args))


def one_line(error: BaseException) -> str:
    """Another library's exception in one line: its kind and the first line of its text."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the closest match among `known`, or all of them: the end of an error about an unknown `name`."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"


def listed(items: Iterable[object], most: int = 5) -> str:
    """Return some of the items and how many more there are: `a, b and 7 more`."""
    texts = [str(item) for item in items]
    if len(texts) <= most:
        return ", ".join(texts)
    return f"{', '.join(texts[:most])} and {len(texts) - most} more"


def unquoted(value: object) -> str:
    """Return the end of an error about a number that arrived as text, as YAML takes 1e-3 and --config what stands in a list."""
    if not isinstance(value, str):
        return ""
    try:
        number = Decimal(value)
    except InvalidOperation:
        return ""
    mantissa, e, exponent = value.lower().partition("e")
    if not e or not number.is_finite():
        return "; this is text: write numbers without quotes, and lists in a file instead of --config"
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    exponent = exponent if exponent[0] in "+-" else f"+{exponent}"
    return f"; YAML reads this as text: write {number:f} or {mantissa}e{exponent}"
