"""How numbers and lists are written in text."""

from __future__ import annotations

from collections.abc import Iterable

# From this number of test images on, a difference is given to a hundredth of a point.
MANY_IMAGES = 5000


def percent(share: float, digits: int = 0) -> str:
    """Write `70%`."""
    return f"{100 * share:.{digits}f}%"


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Write `1 seed`, `3 seeds`, `1,000 images`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def joined(names: Iterable[str]) -> str:
    """Write `a`, `a and b`, `a, b and c`; nothing for no names."""
    *rest, last = list(names) or [""]
    return f"{', '.join(rest)} and {last}" if rest else last


def quantity(number: float) -> str:
    """`1.11 G`: three digits and a prefix."""
    for size, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {prefix}"
    return f"{number:.3g} "


def signed(share: float, digits: int = 1) -> str:
    """Write a difference in percentage points: `+1.2`, `−0.3`; what rounds to 0 has no sign."""
    text = f"{100 * share:+.{digits}f}"
    return text.replace("-", "−") if float(text) else text[1:]


def interval(difference: float, low: float, high: float, images: int) -> str:
    """`−0.4 [−0.9, +0.1]`: a difference of two accuracies on so many images with its interval, in percentage points."""
    mean, least, most = (signed(share, 2 if images >= MANY_IMAGES else 1) for share in (difference, low, high))
    return f"{mean} [{least}, {most}]"
