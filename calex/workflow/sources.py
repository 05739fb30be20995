"""Which source files a step's result depends on: what the workflow compares to know what an edit must rerun.

Snakemake does not see edits inside an imported package. So each rule carries a hash of every file that its step
imports, found by reading import statements, of the plugins that its own config block names, and of a network of the
user's own. The command line (`__main__`), which knows all commands, is never walked.
"""

from __future__ import annotations

from typing import Any

from calex import plugins
from calex.backbones import own
from calex.plugins import modules
from calex.plugins.modules import PACKAGE, Source

# Which key of a config block names a plugin of which kind.
KINDS = {
    "source": "datasets",
    "recipe": "recipes",
    "head": "heads",
    "target": "targets",
    "weighting": "weightings",
    "policy": "policies",
    "path": "policies",
    "benchmark": "benchmarks",
}

# They affect messages only, never a result; `calex/__init__.py` is only the list of public names.
NOT_HASHED = {"__init__.py", "errors.py", "system/progress.py", "plugins/contracts.py", "plugins/ranges.py"}

# What a module may read besides code: a page template of its own name.
BESIDE = (".html",)


def of_step(step: str, settings: dict[str, Any]) -> dict[str, str]:
    """{file: hash} of a step (`train_branch`) run with a config block."""
    sources = [modules.inside(f"steps/{step}.py")]
    for key, kind in KINDS.items():
        if isinstance(settings.get(key), dict):
            sources += [plugins.located(kind, settings[key]["name"]), modules.inside(f"{kind}/__init__.py")]
    if own.is_own(settings.get("network")):
        sources.append(own.source(settings["network"]))
    reached = modules.closure(sources)
    pages = [Source(page, source.root) for source in reached for page in map(source.file.with_suffix, BESIDE) if page.is_file()]
    silent = {PACKAGE / name for name in NOT_HASHED}
    return {source.name: modules.digest(source.file) for source in sorted([*reached, *pages]) if source.file not in silent}
