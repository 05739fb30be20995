"""Python modules found and read without running them: where one is, what it defines, and what it imports.

One walker for this package and for what people write outside of it, networks and plugins: those are looked for where
Python would, the working directory first. What is installed beside them (torch, NumPy) is not followed.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache, wraps
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from calex.errors import CalexError, one_line, suggestion

PACKAGE = Path(__file__).parents[1]

INSTALLED = {"site-packages", "dist-packages"}

Read = TypeVar("Read")


@dataclass(frozen=True, order=True)
class Source:
    """A source file and the folder from which it is imported."""

    file: Path
    root: Path

    @property
    def name(self) -> str:
        """Its path below that folder: `calex/heads/ztw.py`."""
        return self.file.relative_to(self.root).as_posix()


def inside(path: str) -> Source:
    """Return a file of this package, by its path in it."""
    return Source(PACKAGE / path, PACKAGE.parent)


def _once(function: Callable[[Path], Read]) -> Callable[[Path], Read]:
    """Remember what was read of a file until the file changes."""
    remembered = lru_cache(maxsize=None)(lambda file, *_: function(file))

    @wraps(function)
    def read(file: Path) -> Read:
        state = file.stat()
        return remembered(file, state.st_mtime_ns, state.st_size)

    return read


@_once
def digest(file: Path) -> str:
    """Return a hash of a file's content."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


@_once
def parsed(file: Path) -> ast.Module:
    """Return a source file's syntax tree; an error in it is one line with its place."""
    try:
        return ast.parse(file.read_bytes())
    except SyntaxError as error:
        raise CalexError(f"{file}, line {error.lineno or 1}: {error.msg}; correct the file") from None
    except ValueError as error:  # a null byte
        raise CalexError(f"{file}: {error}; correct the file") from None


@_once
def constants(file: Path) -> dict[str, Any]:
    """Return the literal module-level assignments of a source file, annotated or not."""
    values = {}
    for name, value in _assignments(file):
        try:
            values[name] = ast.literal_eval(value)
        except ValueError:
            continue
    return values


def _assignments(file: Path) -> Iterator[tuple[str, ast.expr]]:
    for node in parsed(file).body:
        if isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            target, value = node.target, node.value
        else:
            continue
        if isinstance(target, ast.Name):
            yield target.id, value


@_once
def defined(file: Path) -> frozenset[str]:
    """Return the names that a module gives: functions, classes, assignments and imports; `*` where it imports all of another."""
    names: set[str] = set()
    waiting: list[ast.AST] = list(parsed(file).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names.update((alias.asname or alias.name).split(".")[0] for alias in node.names)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            waiting.extend(ast.iter_child_nodes(node))
    return frozenset(names)


@contextmanager
def _working_directory_first() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(here)


def _file(base: Path) -> Path | None:
    """Return the source of a module at `base`, which has no suffix: a package or a file."""
    return next((file for file in (base / "__init__.py", base.with_name(f"{base.name}.py")) if file.is_file()), None)


def _places(top: str) -> list[Path]:
    """Where a top-level module is, without suffix; several for a package without `__init__.py`."""
    with _working_directory_first():
        try:
            spec = find_spec(top)
        except ValueError:  # a module without a specification, such as `__main__`
            return []
    if spec is None:
        return []
    if spec.submodule_search_locations:
        return [Path(place) for place in spec.submodule_search_locations]
    return [Path(spec.origin).with_suffix("")] if spec.origin else []


def located(module: str, where: str) -> Source:
    """Return the source of a module outside this package.

    where: which key asked for it, for errors.

    Raises CalexError for a module that is not there, and for a name that another module has too.
    """
    top, *rest = module.split(".")
    if top in sys.stdlib_module_names or top == PACKAGE.name:
        owner = "calex" if top == PACKAGE.name else "Python"
        raise CalexError(f"{where}: '{module}' begins with the name of a part of {owner} itself; give your folder another name")
    _refuse_a_second(top, where)
    places = _places(top)
    for place in places:
        file = _file(place.joinpath(*rest))
        if file is not None:
            return Source(file, place.parent)
    beside = {file.stem for place in places for file in place.joinpath(*rest[:-1]).glob("[!_]*.py")} if rest else set()
    near = suggestion(module, [".".join([top, *rest[:-1], stem]) for stem in beside])
    hint = f"; {near}" if near.startswith("did") else "; put it there or set PYTHONPATH"
    raise CalexError(f"{where}: no module '{module}' in {Path.cwd()} or on Python's path{hint}")


def _refuse_a_second(top: str, where: str) -> None:
    """Raise CalexError if an installed module has the name of one that is not: which one Python takes depends on much."""
    entries = [Path(entry) for entry in [str(Path.cwd()), *sys.path]]
    beside = [entry for entry in entries if entry.name not in INSTALLED and _is_module(entry / top)]
    spec = PathFinder.find_spec(top, [str(entry) for entry in entries if entry.name in INSTALLED])
    if beside and spec is not None and spec.origin is not None:
        raise CalexError(f"{where}: '{top}' is in {beside[0]} and also installed ({spec.origin}); give yours another name")


def _is_module(base: Path) -> bool:
    return base.is_dir() or _file(base) is not None


def load(source: Source, module: str, where: str) -> ModuleType:
    """Import a module from outside this package. Raises CalexError where that fails."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # permanently: its code may import more when it is called
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # the user's code: anything can happen
        raise CalexError(f"{where}: {source.file} cannot be imported ({one_line(error)}); correct it") from None
    if loaded.__file__ is None or not Path(loaded.__file__).samefile(source.file):
        raise CalexError(f"{where}: '{module}' is loaded from {loaded.__file__}, not {source.file}; give yours another name")
    return loaded


def closure(sources: Iterable[Source]) -> list[Source]:
    """Return the sources, the packages that they are in and all that they import, directly or not, sorted."""
    reached: set[Source] = set()
    waiting = [below for source in sources for below in _reached(source.file.relative_to(source.root), source.root)]
    while waiting:
        source = waiting.pop()
        if source not in reached:
            reached.add(source)
            waiting.extend(imported(source))
    return sorted(reached)


def imported(source: Source) -> frozenset[Source]:
    """Return the sources that a file imports itself, at any depth of its code; not what only a type checker sees."""
    state = source.file.stat()
    return _imported(source, state.st_mtime_ns, state.st_size)


@cache
def _imported(source: Source, *_: int) -> frozenset[Source]:
    reached: set[Source] = set()
    for node in _import_statements(parsed(source.file)):
        if isinstance(node, ast.Import):
            above: tuple[str, ...] | None = None
            names = [alias.name for alias in node.names]
        else:
            above = _above(source, node) if node.level else None
            module = ".".join(filter(None, [*(above or ()), node.module]))
            names = [module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)]
        for name in filter(None, names):
            root = source.root if above is not None else _root(name.split(".")[0], source)
            if root is not None:
                reached.update(_reached(Path(*name.split(".")), root))
    return frozenset(reached)


def _import_statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in node.orelse:
                yield from _import_statements(ast.Module([other], []))
        else:
            yield from _import_statements(node)


def _above(source: Source, node: ast.ImportFrom) -> tuple[str, ...]:
    """Return the package that the dots of `from ..x import y` mean."""
    folder = source.file.parents[min(node.level, len(source.file.parents)) - 1]
    if not folder.is_relative_to(source.root):  # more dots than there are packages: Python refuses it too
        raise CalexError(f"{source.file}, line {node.lineno}: an import goes beyond its package; correct the file")
    return folder.relative_to(source.root).parts


def _root(top: str, importer: Source) -> Path | None:
    """Return the folder from which a top-level module is imported, if it is to be followed."""
    if top == PACKAGE.name:
        return PACKAGE.parent
    if importer.root == PACKAGE.parent and importer.file.is_relative_to(PACKAGE):
        return None
    if importer.root.name in INSTALLED:  # of an installed package only its own files count
        return importer.root if importer.file.relative_to(importer.root).parts[0].removesuffix(".py") == top else None
    if top in sys.stdlib_module_names:
        return None
    root = next((place.parent for place in _places(top)), None)
    return None if root is None or root.name in INSTALLED else root


def _reached(path: Path, root: Path) -> Iterator[Source]:
    """Return the module at a path below `root`, which may have a suffix or name something in a module, and the packages above it."""
    parts = path.with_suffix("").parts if path.suffix == ".py" else path.parts
    for depth in range(1, len(parts) + 1):
        file = _file(root.joinpath(*parts[:depth]))
        if file is not None:
            yield Source(file, root)
