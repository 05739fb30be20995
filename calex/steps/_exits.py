"""The exits of a cascade as a policy reads them, for the steps that calibrate, evaluate and certify it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calex.simulation import exits
from calex.simulation.rule import charged
from calex.workflow.settings_argument import PolicySettings


def read(paths: Sequence[Path], split: str, chosen: PolicySettings) -> exits.Exits:
    """Read the exits of a split with the score and the last answer of the settings, charged for the policy's own score."""
    scorer, options = chosen.load_scorer()
    whole = getattr(scorer, "LOG_SOFTMAX", False)
    return charged(scorer, exits.read(paths, split, chosen["score"], whole, chosen["last"]), options)
