"""What exists under a name: one file a thing, found by its name, imported only when it is used.

A *kind* is a folder of this package (`heads`, `policies`, …). A file in it is a plugin: its name is what
the config says, its literal `OPTIONS` are the keys its config block may hold with their defaults, `CHOICES` the
words that some of them may be, `RANGES` the interval of each number (`calex.ranges`), `PATHS` the keys in which `~`
is one's home folder. All are read from the source
without importing it, so that checking a config never loads torch. A default of None stands for a path or a name that
may be left out.
"""

from __future__ import annotations

import ast
import importlib
import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from calex.errors import CalexError, suggestion, unquoted
from calex.ranges import FINITE, misfit

PACKAGE = Path(__file__).parent

# JSON has no infinity: in a completed block it is this word, for a plugin's function it is a number again.
INFINITY = "inf"


def names(kind: str) -> list[str]:
    """Every plugin of a kind, sorted."""
    return sorted(file.stem for file in (PACKAGE / kind).glob("*.py") if not file.stem.startswith("_"))


def source(kind: str, name: str, where: str | None = None) -> Path:
    """The file of a plugin; `where` says in an error which key or flag asked for it."""
    if name not in names(kind):
        raise CalexError(f"{where or kind}: unknown name '{name}', {suggestion(str(name), names(kind))}")
    return PACKAGE / kind / f"{name}.py"


@cache
def parsed(file: Path) -> ast.Module:
    """A source file's syntax tree; an error in it is one line with its place."""
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise CalexError(f"{file}, line {error.lineno or 1}: {error.msg}; mend the file") from None
    except ValueError as error:  # a null byte
        raise CalexError(f"{file}: {error}; mend the file") from None


@cache
def constants(file: Path) -> dict[str, Any]:
    """The literal module-level assignments of a source file, annotated or not, without running it."""
    found = {}
    for node in parsed(file).body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name):
            try:
                found[target.id] = ast.literal_eval(value)
            except ValueError:
                continue
    return found


def complete(kind: str, block: dict[str, Any], where: str) -> dict[str, Any]:
    """A plugin's config block with every option present, fit for JSON.

    Raises CalexError for unknown options, with their near miss, and for values of another kind or out of range.
    """
    file = source(kind, block["name"], f"{where}.name")
    declared = constants(file)
    options, paths = declared.get("OPTIONS", {}), declared.get("PATHS", [])
    faults = [fault for key, value in block.items() if key != "name" for fault in _faults(key, value, file, where)]
    if faults:
        raise CalexError(*faults)
    whole = {"name": block["name"], **options, **block}
    whole |= {key: os.path.expanduser(whole[key]) for key in paths if whole[key] is not None}
    return {key: INFINITY if value == math.inf else value for key, value in whole.items()}


def _faults(key: str, value: Any, file: Path, where: str) -> Iterator[str]:
    """What is wrong with one option; `file` is its plugin's."""
    declared = constants(file)
    options, choices, ranges = (declared.get(part, {}) for part in ("OPTIONS", "CHOICES", "RANGES"))
    if key not in options:
        yield f"{where}: unknown key '{key}', {suggestion(key, ['name', *options])}"
        return
    default = options[key]
    if value == INFINITY and type(default) is float:
        value = math.inf
    kinds = {float: (int, float), type(None): (str, type(None))}.get(type(default), type(default))
    if not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool):
        like = "a text or null" if default is None else f"something like {default!r}"
        yield f"{where}.{key}: expected {like}, got {value!r}{unquoted(value)}"
    elif key in choices and value not in choices[key]:
        yield f"{where}.{key}: unknown value '{value}', {suggestion(str(value), choices[key])}"
    elif isinstance(value, int | float) and type(default) in (int, float):
        try:
            wrong = misfit(value, ranges.get(key, FINITE))
        except ValueError as error:
            raise CalexError(f"{file}: RANGES of '{key}': {error}") from None
        if wrong:
            yield f"{where}.{key}: {value!r} {wrong}"


def load(kind: str, name: str) -> ModuleType:
    """Import a plugin."""
    source(kind, name)
    return importlib.import_module(f"calex.{kind}.{name}")


def options_of(block: dict[str, Any]) -> dict[str, Any]:
    """A completed block less its name: the keyword arguments of the plugin's function."""
    return {key: math.inf if value == INFINITY else value for key, value in block.items() if key != "name"}
