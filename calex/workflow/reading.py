"""How a policy reads exits: its score, and what answers where no branch does. Any policy may say it, none has it as an option."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calex.simulation.last import LAST
from calex.simulation.scores import SCORES

# {key of a policy: its values}
READING = {"score": SCORES, "last": LAST}


def score_of(variant: Mapping[str, Any], policy: Mapping[str, Any], path: Mapping[str, Any] | None = None) -> str | None:
    """What thresholds are compared with: a policy, or the one over which it decides, may read another score than the method's."""
    return policy.get("score") or (path or {}).get("score") or variant.get("score")


def last_of(policy: Mapping[str, Any], path: Mapping[str, Any] | None = None) -> str:
    """What answers where no branch does: as a policy says, or the one over which it decides, or the backbone."""
    return policy.get("last") or (path or {}).get("last") or "backbone"


def without_reading(policy: Mapping[str, Any]) -> dict[str, Any]:
    """The block of a policy's plugin alone."""
    return {key: value for key, value in policy.items() if key not in READING}
