"""A network of your own, `package.module:function`: found without running it, and called with the number of classes.

It is looked for where Python would, the working directory first. The workflow hashes its source file and what that
imports beside it, so that an edit trains the backbone again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from calex.errors import CalexError, suggestion
from calex.plugins import modules
from calex.plugins.modules import Source


def is_own(network: Any) -> bool:
    """Tell whether a `network` key names a function of the user's, not a classifier of torchvision."""
    return isinstance(network, str) and ":" in network


def _parts(network: str) -> tuple[str, str]:
    module, _, function = network.partition(":")
    if not all(part.isidentifier() for part in [*module.split("."), function]):
        raise CalexError(f"network: '{network}' is not of the form package.module:function")
    return module, function


def located(network: str) -> Source:
    """Return the source of a network's module."""
    return modules.located(_parts(network)[0], "network")


def sources(network: str) -> dict[str, str]:
    """{file: hash} of a network's module and of all that it imports and that is not installed."""
    return {source.name: modules.digest(source.file) for source in modules.closure([located(network)])}


def function(network: str) -> Callable[[int], Any]:
    """Return the function itself. Raises CalexError when the module fails or has none of that name."""
    module, name = _parts(network)
    source = located(network)
    loaded = modules.load(source, module, "network")
    made = getattr(loaded, name, None)
    if not callable(made):
        known = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
        raise CalexError(f"network: {source.file} has no function '{name}', {suggestion(name, known)}")
    return made
