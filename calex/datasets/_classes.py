"""The names of classes and their order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from calex.errors import CalexError, listed
from calex.system.progress import say


def order_classes(by_split: Mapping[str, Sequence[str]], given: Sequence[Any], place: Path) -> list[str]:
    """Put the classes in order: as `given`, else by number where every name is one, else as text.

    by_split: {split: the names of its class folders}. Every split must have the same classes, and `given`, if it is not empty,
    must list exactly them; all differences are one CalexError.
    """
    first, *others = by_split
    for other in others:
        _check_same(
            set(by_split[first]),
            set(by_split[other]),
            f"folder in {first}",
            f"folder in {other}",
            f"{place}: ",
            "; every split needs the same classes",
        )
    names = sorted(by_split[first], key=order_key(by_split[first]))
    if not given:
        if names != sorted(names):
            say(f"{place}: class names are numbers, and in the order of numbers ({listed(names)}); `classes` sets another")
        return names
    wanted = [str(name) if type(name) is int else name for name in given]
    if strange := [name for name in wanted if not isinstance(name, str)]:
        raise CalexError(f"source.classes: {listed(map(repr, strange))}: no names; put them in quotes")
    if double := sorted({name for name in wanted if wanted.count(name) > 1}):
        raise CalexError(f"source.classes: {listed(double)}: listed twice")
    _check_same(
        set(names), set(wanted), f"folder in {place / first}", "line in it", "source.classes: ", "; list every class once"
    )
    return wanted


def similar_names(names: Sequence[str]) -> list[str]:
    """Warn of each group of classes whose names differ in case or spaces only."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(" ".join(name.casefold().split()), []).append(f"'{name}'")
    return [f"the classes {listed(group)} differ in case or spaces only" for group in groups.values() if len(group) > 1]


def order_key(names: Sequence[str]) -> Any:
    """Return a sort key: by value where all names are whole numbers (2 before 10), else by text."""
    return (lambda name: (int(name), name)) if all(name.isdecimal() for name in names) else (lambda name: name)


def _check_same(one: set[str], other: set[str], one_place: str, other_place: str, where: str, remedy: str) -> None:
    """Refuse two sets of names that differ, with all differences and their closest matches."""
    faults = [
        f"{_these(lonely)} no {missing}{_hint(lonely, there)}"
        for lonely, there, missing in (
            (sorted(one - other), sorted(other - one), other_place),
            (sorted(other - one), sorted(one - other), one_place),
        )
        if lonely
    ]
    if faults:
        raise CalexError(f"{where}{'; '.join(faults)}{remedy}")


def _these(names: list[str]) -> str:
    quoted = [f"'{name}'" for name in names]
    return f"class {quoted[0]} has" if len(quoted) == 1 else f"classes {listed(quoted)} have"


def _hint(names: list[str], candidates: list[str]) -> str:
    """Say what the first name that has a closest match may be."""
    for name in names:
        for other in candidates:
            if name.strip().casefold() == other.strip().casefold():
                return f" ('{name}' and '{other}' differ in {'spaces' if name.casefold() != other.casefold() else 'case'} only)"
        if close := get_close_matches(name, candidates, 1):
            return f" (is '{name}' '{close[0]}'?)"
    return ""
