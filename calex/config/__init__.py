"""The config, checked before any job: read strictly, layer over layer, with defaults filled in, all faults at once."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from calex.config import references, schema
from calex.config.layers import merged, unresolved
from calex.config.reading import read_layers, read_yaml
from calex.errors import CalexError

__all__ = ["merged", "read_layers", "read_yaml", "validated"]


def validated(config: Mapping[str, Any], rules: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the config with every default present, and each method as its policies and its variants (`plan.variants`).

    rules: the JSON schema. where: what errors call the config, the paths of its files.

    Raises CalexError that lists all keys, values and names that do not fit, and checkpoint files that are not there.
    """
    config = merged([config])
    parents = unresolved(config)
    given = schema.faults(config, rules)
    # What an entry lacks may be its parent's.
    lines = [why for why in parents.values() if why] + [line for path, line in given if path[:2] not in parents]
    sections = [key for key in ("datasets", "backbones", "methods", "policies") if not isinstance(config.get(key), dict)]
    if not sections:
        whole = schema.completed(config, rules, rules)
        broken = {(path[0], path[1]) for path, _ in given if len(path) > 1} | set(parents)
        lines += references.complete(whole, broken)
    if not lines:
        return whole
    lines = _together(lines)
    if len(lines) == 1:
        raise CalexError(f"{where}: {lines[0]}")
    raise CalexError(f"{where}: {len(lines)} faults\n" + "\n".join(f"  {line}" for line in lines))


def _together(faults: Iterable[str]) -> list[str]:
    """One line for a fault that several entries of a section have, as the children of one parent do."""
    entries: dict[tuple[str, str], list[str]] = {}
    for fault in faults:
        section, name, rest = re.fullmatch(r"(?s)(?:(\w+)\.(\w+))?(.*)", fault).groups(default="")  # type: ignore[union-attr]
        entries.setdefault((section, rest), []).append(name)
    return [
        (f"{section}.{name}" if section else "") + rest + (f" (also: {', '.join(others)})" if others else "")
        for (section, rest), (name, *others) in entries.items()
    ]
