"""One config from several files, and entries that state only what differs from another entry (`extends:`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from calex.errors import suggestion

# The sections whose entries may extend one another.
EXTENDING = ("datasets", "backbones", "methods")


def merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One config from several, the later over the earlier: blocks are merged key by key, all else is replaced.

    A block that names another plugin replaces the one below it: a head's options are not those of another head. An
    entry that extends another begins as that one is in the whole config, later layers included, and its own blocks
    lie over it layer by layer. An entry whose parents cannot be resolved keeps its key `extends` (`unresolved`
    says why).
    """
    layers = list(layers)
    config: dict[str, Any] = {}
    for layer in layers:
        config = _over(config, layer)
    for section in EXTENDING:
        if isinstance(config.get(section), Mapping):
            # A layer with something else in the section's place begins it anew.
            blocks = [layer[section] for layer in layers if section in layer]
            while not all(isinstance(block, Mapping) for block in blocks):
                blocks = blocks[1:]
            config[section] = {name: _extended(name, config[section], blocks, ()) for name in config[section]}
    return config


def _extended(name: str, section: Mapping[str, Any], blocks: list[Mapping[str, Any]], below: tuple[str, ...]) -> Any:
    """Return an entry with all that it takes from its parents. `section` holds the entries as the layers state them."""
    entry = section[name]
    if not isinstance(entry, Mapping) or "extends" not in entry:
        return entry
    parent = entry["extends"]
    base: Any = {}
    if parent is not None:
        known = isinstance(parent, str) and parent in section and parent not in (*below, name)
        base = _extended(parent, section, blocks, (*below, name)) if known else {"extends": parent}
    resolved = not isinstance(base, Mapping) or "extends" not in base
    for block in blocks:
        if name in block:
            base = _over(base, block[name])
    return {key: value for key, value in base.items() if key != "extends" or not resolved}


def unresolved(config: Mapping[str, Any]) -> dict[tuple[str, str], str]:
    """{(section, entry): why} of what still has the key `extends` after `merged`.

    Of the entries of a circle only the first says why, and none whose parent is at fault: of the others it is ''.
    """
    reasons: dict[tuple[str, str], str] = {}
    for section in EXTENDING:
        entries = config.get(section)
        if not isinstance(entries, Mapping):
            continue
        parents = {
            name: entry["extends"] for name, entry in entries.items() if isinstance(entry, Mapping) and "extends" in entry
        }
        in_circles: set[str] = set()
        for name, parent in parents.items():
            why = ""
            if not isinstance(parent, str):
                why = f"expected the name of an entry of {section}, got {parent!r}"
            elif parent not in entries:
                why = f"unknown name '{parent}', {suggestion(parent, entries)}"
            elif name not in in_circles and (circle := _circle(name, parents)):
                in_circles.update(circle)
                why = f"goes in a circle, {' → '.join([*circle, name])}; one of them must state all of itself"
            reasons[section, name] = f"{section}.{name}.extends: {why}" if why else ""
    return reasons


def _circle(name: str, parents: Mapping[str, Any]) -> list[str]:
    """Return the entries that one meets from an entry back to it; [] where it is in no circle."""
    chain = [name]
    while isinstance(parent := parents.get(chain[-1]), str) and parent not in chain:
        chain.append(parent)
    return chain if parent == name else []


def _over(below: Any, above: Any) -> Any:
    if not isinstance(above, Mapping):
        return above
    if not isinstance(below, Mapping) or _other_plugin(below.get("name"), above.get("name")):
        below = {}
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def _other_plugin(below: Any, above: Any) -> bool:
    return isinstance(below, str) and isinstance(above, str) and below != above
