"""What exists under a name: one file a thing, found by its name, imported only when it is used.

A *kind* is a folder of this package (`heads`, `policies`, …). A file in it is a plugin, and its name is what the config
says; a name with dots (`my_parts.average`) is a plugin outside the package, a module where one runs the workflow or on
Python's path. What its functions must be stands in `calex.plugins.contracts`. Its literal `OPTIONS` are the keys that its
config block may hold with their defaults, `CHOICES` the words that some of them may be, `RANGES` the interval of each
number (`calex.plugins.ranges`), `PATHS` the keys in which `~` is one's home folder. All are read from the source without
importing it, so that checking a config never loads torch. A default of None stands for a path or a name that may be
left out.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, overload

from calex.errors import CalexError, suggestion, unquoted
from calex.plugins import contracts, modules
from calex.plugins.modules import Source
from calex.plugins.ranges import FINITE, misfit

# The kinds that a config names.
KINDS = ("datasets", "recipes", "heads", "targets", "weightings", "policies")

# JSON has no infinity: in a completed block it is this word, for a plugin's function it is a number again.
INFINITY = "inf"


NO_HOME = "'{path}' begins with the home folder of an unknown user; give the absolute path"


def has_home(path: str) -> bool:
    """Whether a `~` that a path may begin with is that of a user who has a home folder."""
    return not os.path.expanduser(path).startswith("~")


def names(kind: str) -> list[str]:
    """Every plugin of a kind in this package, sorted."""
    return sorted(file.stem for file in (modules.PACKAGE / kind).glob("*.py") if not file.stem.startswith("_"))


def located(kind: str, name: str, where: str | None = None) -> Source:
    """Return the source of a plugin; `where` says in an error which key or flag asked for it."""
    where, name = where or kind, str(name)  # JSON by hand may hold anything there
    if "." in name:
        if not all(part.isidentifier() for part in name.split(".")):
            raise CalexError(f"{where}: '{name}' is not of the form folder.file, the dotted name of a Python module")
        return modules.located(name, where)
    if name not in names(kind):
        raise CalexError(f"{where}: unknown name '{name}', {suggestion(name, names(kind))}")
    return modules.inside(f"{kind}/{name}.py")


def source(kind: str, name: str, where: str | None = None) -> Path:
    """Return the file of a plugin."""
    return located(kind, name, where).file


def exists(kind: str, name: str) -> bool:
    """Whether there is a plugin of this name."""
    try:
        return source(kind, name).is_file()
    except CalexError:
        return False


def constants(kind: str, name: str) -> dict[str, Any]:
    """Return the literal assignments of a plugin's module, without running it."""
    return modules.constants(source(kind, name))


def complete(kind: str, block: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a plugin's config block with every option present, fit for JSON.

    Raises CalexError for unknown options, with their closest match, and for values of another kind or out of range.
    """
    file = source(kind, block["name"], f"{where}.name")
    contracts.check_source(kind, file, f"{where}.name")
    declared = modules.constants(file)
    options, paths = declared.get("OPTIONS", {}), declared.get("PATHS", [])
    faults = [fault for key, value in block.items() if key != "name" for fault in _faults(key, value, file, where)]
    if faults:
        raise CalexError(*faults)
    whole = {"name": block["name"], **options, **block}
    whole |= {key: os.path.expanduser(whole[key]) for key in paths if whole[key] is not None}
    return {key: INFINITY if value == math.inf else value for key, value in whole.items()}


def _faults(key: str, value: Any, file: Path, where: str) -> Iterator[str]:
    """Yield what is wrong with one option; `file` is its plugin's."""
    declared = modules.constants(file)
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
    elif key in declared.get("PATHS", ()) and value is not None and not has_home(str(value)):
        yield f"{where}.{key}: {NO_HOME.format(path=value)}"
    elif isinstance(value, int | float) and type(default) in (int, float):
        try:
            wrong = misfit(value, ranges.get(key, FINITE))
        except ValueError as error:
            raise CalexError(f"{file}: RANGES of '{key}': {error}") from None
        if wrong:
            yield f"{where}.{key}: {value!r} {wrong}"


@overload
def load(kind: Literal["datasets"], name: str) -> contracts.DatasetSource: ...
@overload
def load(kind: Literal["heads"], name: str) -> contracts.Head: ...
@overload
def load(kind: Literal["targets"], name: str) -> contracts.Target: ...
@overload
def load(kind: Literal["policies"], name: str) -> contracts.Policy: ...
@overload
def load(kind: str, name: str) -> Any: ...
def load(kind: str, name: str) -> Any:
    """Import a plugin. Raises CalexError where it does not hold what its kind needs (`calex.plugins.contracts`)."""
    origin = located(kind, name)
    module = modules.load(origin, name, kind) if "." in name else importlib.import_module(f"calex.{kind}.{name}")
    contracts.check_module(kind, module, origin.file, kind)
    return module


def options_of(block: dict[str, Any]) -> dict[str, Any]:
    """Return a completed block less its name: the keyword arguments of the plugin's function."""
    return {key: math.inf if value == INFINITY else value for key, value in block.items() if key != "name"}
