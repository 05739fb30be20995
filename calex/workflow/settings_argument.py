"""Config blocks on the command line: JSON in which a key that is missing is an error a person can act on."""

from __future__ import annotations

import argparse
import json
from typing import Any

from calex import plugins
from calex.errors import CalexError


class Settings(dict[str, Any]):
    """A JSON object; asking for a key that is not there says so."""

    def __missing__(self, key: str) -> Any:
        """Raise CalexError."""
        raise CalexError(f"--settings: the key '{key}' is missing; config/README.md explains each key")


def parse(text: str) -> Settings:
    """Return the object that JSON text holds: the type of an argument of a command line."""
    try:
        value = json.loads(text, object_hook=Settings)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not valid JSON ({error})") from None
    if not isinstance(value, Settings):
        raise argparse.ArgumentTypeError("a JSON object is expected, {…}")
    return value


def completed(settings: Settings, **kinds: str) -> Settings:
    """Return the settings with the options of some plugin blocks filled in: completed(settings, head="heads")."""
    for key in kinds:
        if not isinstance(settings[key], dict):
            raise CalexError(f"--settings: {key}: a block with a name is expected, got {settings[key]!r}")
    return Settings(
        settings | {key: plugins.complete(kind, settings[key], f"--settings: {key}") for key, kind in kinds.items()}
    )
