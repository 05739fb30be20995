"""One file per dataset source: `load(resources, **options)` returns `calex.images.Images` (`calex.plugins.contracts.DatasetSource`).

That is uint8 pixels, labels, class names and the fixed split; its `notes` may add file names, what was left out, and
warnings, which the audit keeps. `resources` is a folder for downloads. What decoding takes at its peak, in MB, is a literal
`MEMORY_MB`, or a function `memory_mb(**options)` where options decide.
"""

from __future__ import annotations

from typing import Any

from calex import plugins
from calex.plugins import modules

MEMORY_MB = 4000  # of a source that says nothing


def memory_mb(source: dict[str, Any]) -> int:
    """Return what decoding a source takes at its peak, in MB, which its job must ask for; `source` is its completed block."""
    file = plugins.source("datasets", source["name"])
    if "memory_mb" not in modules.defined(file):  # the source is imported for what needs it only
        return int(modules.constants(file).get("MEMORY_MB", MEMORY_MB))
    return int(getattr(plugins.load("datasets", source["name"]), "memory_mb")(**plugins.options_of(source)))  # noqa: B009
