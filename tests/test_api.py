"""`import calex`: what it offers, that torch stays out of it, and that the examples of its docstrings and of the README run."""

from __future__ import annotations

import ast
import doctest
import importlib.util
import pkgutil
import pydoc
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from conftest import REPOSITORY

import calex

SECTIONS = {"Parameters", "Returns"}
WITH_TORCH = {"Cascade", "attach", "load"}  # what runs


def modules() -> list[ModuleType]:
    """Every module of the package that has an example."""
    names = [info.name for info in pkgutil.walk_packages(calex.__path__, "calex.") if not info.name.endswith("__main__")]
    with_examples = [name for name in names if ">>>" in Path(str(importlib.util.find_spec(name).origin)).read_text("utf-8")]
    return [importlib.import_module(name) for name in with_examples]


def fresh(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", sorted(set(calex.__all__) - WITH_TORCH))
def test_a_name_is_imported_alone_without_torch(name: str) -> None:
    done = fresh(f"from calex import {name}; import sys; assert {name} is not None; sys.exit('torch' in sys.modules)")
    assert done.returncode == 0, done.stderr


def test_importing_the_package_imports_nothing_of_others() -> None:
    done = fresh("import calex, sys; print(sorted({'numpy', 'polars', 'torch', 'zarr'} & set(sys.modules)))")
    assert done.stdout == "[]\n", done.stderr


def test_no_name_is_that_of_a_module() -> None:
    """Importing a module of that name would put the module in its place."""
    assert [name for name in calex.__all__ if importlib.util.find_spec(f"calex.{name}")] == []


def test_a_name_that_is_not_there_is_an_error_as_usual() -> None:
    with pytest.raises(AttributeError, match="no attribute 'read_exit'"):
        calex.read_exit  # noqa: B018
    assert set(calex.__all__) <= set(dir(calex))


def test_type_checkers_see_what_is_there() -> None:
    """The stub and the table of lazy imports name the same things."""
    stub = ast.parse(Path(calex.__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    seen = {
        (alias.asname or alias.name): (node.module, alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == calex._DEFINED


@pytest.mark.parametrize("name", calex.__all__)
def test_help_says_what_goes_in_and_what_comes_out(name: str) -> None:
    thing = getattr(calex, name)
    text = thing.__doc__ or ""
    if callable(thing) and not isinstance(thing, type):
        assert {section for section in SECTIONS if f"\n    {section}\n    ---" in text} == SECTIONS, text
        assert ">>>" in text, f"{name} has no example"
    assert name in pydoc.render_doc(calex)


@pytest.mark.parametrize("module", modules(), ids=lambda module: module.__name__)
def test_the_examples_of_a_module_run(module: ModuleType, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny)
    found = doctest.testmod(module)
    assert found.attempted and not found.failed


def test_the_example_of_the_readme_runs(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny)
    found = doctest.testfile(str(REPOSITORY / "README.md"), module_relative=False)
    assert found.attempted and not found.failed
