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


def source(network: str) -> Source:
    """Return the source of a network's module."""
    return modules.located(_parts(network)[0], "network")


def source_hashes(network: str) -> dict[str, str]:
    """{file: hash} of a network's module and of all that it imports and that is not installed."""
    return {one.name: modules.digest(one.file) for one in modules.closure([source(network)])}


def load(network: str) -> Callable[[int], Any]:
    """Return the function that makes a network. Raises CalexError when its module fails or has none of that name."""
    module, name = _parts(network)
    code = source(network)
    loaded = modules.load(code, module, "network")
    function = getattr(loaded, name, None)
    if not callable(function):
        known = [key for key, value in vars(loaded).items() if callable(value) and not key.startswith("_")]
        raise CalexError(f"network: {code.file} has no function '{name}', {suggestion(name, known)}")
    return function
