"""Config blocks on the command line: JSON in which a key that is missing is an error a person can act on."""

from __future__ import annotations

import argparse
import json
from typing import Any

from calex import plugins
from calex.errors import CalexError
from calex.workflow.reading import last_of


class Settings(dict[str, Any]):
    """A JSON object; asking for a key that is not there says so."""

    def __missing__(self, key: str) -> Any:
        """Raise CalexError."""
        raise CalexError(f"--settings: the key '{key}' is missing; config/README.md explains each key")


class PolicySettings(Settings):
    """Settings whose blocks of policies are complete: `policy`, and `path`, over whose operating points it may decide."""

    def load_policy(self, key: str) -> tuple[Any, dict[str, Any]]:
        """Import a policy and return it with its options."""
        return plugins.load("policies", self[key]["name"]), plugins.options_of(self[key])

    def load_scorer(self) -> tuple[Any, dict[str, Any]]:
        """Import the policy whose scores are compared with thresholds, and return it with its options."""
        return self.load_policy("path" if "path" in self else "policy")


def with_policy(settings: Settings) -> PolicySettings:
    """Return the settings with the options of their policies filled in, and with what answers where no branch does."""
    chosen = completed(Settings(settings | {"last": last_of(settings)}), policy="policies")
    over = plugins.constants("policies", chosen["policy"]["name"]).get("OVER", False)
    return PolicySettings(completed(chosen, path="policies") if over else chosen)


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
