"""What exists under a name: one file a thing, found by its name, imported only when it is used.

A *kind* is a folder of this package (`heads`, `policies`, …). A file in it is a plugin: its name is what
the config says, its literal `OPTIONS` are the keys its config block may hold with their defaults, `CHOICES` the
values that some of them may take. Both are read from the source without importing it, so that checking a config
never loads torch. A default of None stands for a path or a name that may be left out.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from calex.errors import CalexError, suggestion

PACKAGE = Path(__file__).parent


def names(kind: str) -> list[str]:
    """Every plugin of a kind, sorted."""
    return sorted(file.stem for file in (PACKAGE / kind).glob("*.py") if not file.stem.startswith("_"))


def source(kind: str, name: str, where: str | None = None) -> Path:
    """The file of a plugin; `where` says in an error which key or flag asked for it."""
    if name not in names(kind):
        raise CalexError(f"{where or kind}: unknown name '{name}', {suggestion(name, names(kind))}")
    return PACKAGE / kind / f"{name}.py"


@cache
def constants(file: Path) -> dict[str, Any]:
    """The literal module-level assignments of a source file, without running it."""
    found = {}
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found


def complete(kind: str, block: dict[str, Any], where: str) -> dict[str, Any]:
    """A plugin's config block with every option present; an unknown option is an error with its near miss."""
    declared = constants(source(kind, block["name"], f"{where}.name"))
    options, choices = declared.get("OPTIONS", {}), declared.get("CHOICES", {})
    for key, value in block.items():
        if key == "name":
            continue
        if key not in options:
            raise CalexError(f"{where}: unknown key '{key}', {suggestion(key, ['name', *options])}")
        default = options[key]
        kinds = {float: (int, float), type(None): (str, type(None))}.get(type(default), type(default))
        if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
            like = "a text or null" if default is None else f"something like {default!r}"
            raise CalexError(f"{where}.{key}: expected {like}, got {value!r}")
        if key in choices and value not in choices[key]:
            raise CalexError(f"{where}.{key}: unknown value '{value}', {suggestion(str(value), choices[key])}")
    return {"name": block["name"], **options, **block}


def load(kind: str, name: str) -> ModuleType:
    """Import a plugin."""
    source(kind, name)
    return importlib.import_module(f"calex.{kind}.{name}")


def options_of(block: dict[str, Any]) -> dict[str, Any]:
    """A config block less its name: the keyword arguments of the plugin's function."""
    return {key: value for key, value in block.items() if key != "name"}
