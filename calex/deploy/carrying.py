"""What is carried from one stage of a network to the next, and what is left of it when images are taken out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# A carried value has a row for each image, is the number of images, or is the same whatever the images are.
ROWS, COUNT, SAME = "rows", "count", "same"


def carry(values: Sequence[Any], kinds: Sequence[str], rows: Any, count: int) -> list[Any]:
    """Take of carried values what belongs to some images.

    values: any arrays, and numbers; kinds: what each is; rows: an index into arrays; count: how many images it takes.
    """
    taken = {ROWS: lambda value: value[rows], COUNT: lambda value: count, SAME: lambda value: value}
    return [taken[kind](value) for value, kind in zip(values, kinds, strict=True)]
