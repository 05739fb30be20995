"""A network of your own, `package.module:function`: found without running it, and called with the number of classes.

It is looked for where Python would, the working directory first. The workflow hashes its source file and what that
imports beside it, so that an edit trains the backbone again.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from calex.errors import CalexError, suggestion

INSTALLED = {"site-packages", "dist-packages"}


def is_own(network: Any) -> bool:
    """Does a `network` key name a function of the user's, not a classifier of torchvision?"""
    return isinstance(network, str) and ":" in network


def _parts(network: str) -> tuple[str, str]:
    module, _, function = network.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise CalexError(f"network: '{network}' is not of the form package.module:function")
    return module, function


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
    """The source of a module at `base`, which has no suffix: a package or a file."""
    return next((file for file in (base / "__init__.py", base.with_name(f"{base.name}.py")) if file.is_file()), None)


def located(network: str) -> tuple[Path, Path]:
    """The source file of a network's module, and the folder that its import starts from. Nothing is run."""
    module, _ = _parts(network)
    top, *rest = module.split(".")
    with _working_directory_first():
        try:
            spec = find_spec(top)
        except ValueError:  # a module that was loaded in an odd way, `__main__` for one
            spec = None
    places = list(spec.submodule_search_locations or []) if spec else []
    if spec and spec.origin and not places:
        places = [str(Path(spec.origin).with_suffix(""))]
    for place in places:
        file = _file(Path(place).joinpath(*rest))
        if file is not None:
            return file, Path(place).parent
    raise CalexError(f"network: no module '{module}' in {Path.cwd()} or on Python's path; put it there or set PYTHONPATH")


def sources(network: str) -> dict[str, str]:
    """{file: hash} of a network's module and of what it imports from the folder that its own import starts from.

    Of an installed package only its own files count.
    """
    file, root = located(network)
    own = _parts(network)[0].split(".")[0] if root.name in INSTALLED else None
    waiting, found = [file, *_packages(file, root)], dict[str, str]()
    while waiting:
        file = waiting.pop()
        name = file.relative_to(root).as_posix()
        if name not in found:
            content = file.read_bytes()
            found[name] = hashlib.sha256(content).hexdigest()[:12]
            waiting.extend(_imports(file, content, root, own))
    return found


def _packages(file: Path, root: Path) -> Iterator[Path]:
    """The `__init__.py` files that Python runs before a module."""
    for folder in file.relative_to(root).parents:
        if folder.name and (root / folder / "__init__.py").is_file():
            yield root / folder / "__init__.py"


def _imports(file: Path, content: bytes, root: Path, own: str | None) -> Iterator[Path]:
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError) as error:
        raise CalexError(f"{file}: {error}; mend the network's module") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            folder = file.parents[min(node.level, len(file.parents)) - 1] if node.level else root
            if not folder.is_relative_to(root):  # more dots than there are packages: Python refuses it too
                raise CalexError(f"{file}, line {node.lineno}: the import goes beyond its package; mend the network's module")
            above = folder.relative_to(root).parts
            module = ".".join([*above, *filter(None, [node.module])])
            names = [module, *(f"{module}.{alias.name}".lstrip(".") for alias in node.names)]
        else:
            continue
        for name in filter(None, names):
            found = _file(root.joinpath(*name.split(".")))
            if found is not None and own in (None, name.split(".")[0]):
                yield found
                yield from _packages(found, root)


def function(network: str) -> Callable[[int], Any]:
    """The function itself. Raises CalexError when the module fails or has none of that name."""
    module, name = _parts(network)
    file, _ = located(network)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # for good: its code may import more when it is called
    try:
        loaded = importlib.import_module(module)
    except Exception as error:  # the user's code: anything can happen
        raise CalexError(f"network: {file} cannot be imported ({said(error)}); mend it") from None
    found = getattr(loaded, name, None)
    if not callable(found):
        known = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
        raise CalexError(f"network: {file} has no function '{name}', {suggestion(name, known)}")
    return found


def said(error: BaseException) -> str:
    """Another library's exception in one line: its kind and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
