"""Which source files a step's result depends on: what the workflow compares to know what an edit must rerun.

Snakemake does not see edits inside an imported package. So each rule carries a hash of every file that its step
imports, found by reading import statements, of the plugins that its own config block names, and of a network of the
user's own. The front door (`__main__`), which knows all verbs, is never walked.
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from calex import networks, plugins
from calex.errors import CalexError
from calex.plugins import PACKAGE

# Which key of a config block names a plugin of which kind.
KINDS = {
    "source": "datasets",
    "recipe": "recipes",
    "head": "heads",
    "target": "targets",
    "weighting": "weightings",
    "policy": "policies",
    "benchmark": "benchmarks",
}

# What these say reaches people, never a result.
SILENT = {"errors.py", "progress.py", "ranges.py"}

# What a module may read besides code: a page template of its own name.
BESIDE = (".html",)


@cache
def imported(file: Path) -> frozenset[Path]:
    """The files of this package that a file imports itself, at any depth of its code."""
    return frozenset(_imported(file))


def _imported(file: Path) -> Iterator[Path]:
    for node in ast.walk(plugins.parsed(file)):
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = ".".join(part for part in (*_above(file, node.level), node.module) if part)
            candidates = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in candidates:
            parts = name.split(".")
            if parts[0] == PACKAGE.name:
                for depth in range(1, len(parts) + 1):
                    stem = PACKAGE.joinpath(*parts[1:depth])
                    for path in (stem / "__init__.py", stem.with_suffix(".py")):
                        if path.is_file():
                            yield path


def _above(file: Path, level: int) -> tuple[str, ...]:
    """The package that the dots of `from ..x import y` mean; none for an import without dots."""
    folder = file.parents[level - 1] if level else PACKAGE.parent
    if not folder.is_relative_to(PACKAGE.parent):
        raise CalexError(f"{file}: an import goes beyond the package; mend the file")
    return folder.relative_to(PACKAGE.parent).parts


def closure(files: list[Path]) -> list[Path]:
    """The files and all that they import, directly or not, sorted; less what only talks."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            found.update(page for page in map(file.with_suffix, BESIDE) if page.is_file())
            waiting.extend(imported(file))
    return sorted(file for file in found if file.name not in SILENT)


@cache
def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:12]


def of_step(step: str, settings: dict[str, Any]) -> dict[str, str]:
    """{file: hash} of a step (`train_branch`) run with a config block."""
    files = [PACKAGE / "steps" / f"{step}.py"]
    for key, kind in KINDS.items():
        if isinstance(settings.get(key), dict):
            files += [plugins.source(kind, settings[key]["name"]), PACKAGE / kind / "__init__.py"]
    own = networks.sources(settings["network"]) if networks.is_own(settings.get("network")) else {}
    return own | {str(file.relative_to(PACKAGE.parent)): digest(file) for file in closure(files)}
