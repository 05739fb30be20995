"""One file a policy, with the functions of `calex.plugins.contracts.Policy`: it turns exits into thresholds and retrains nothing.

`REMEDY` says what else than more validation images helps where these are not enough to choose from. `LAST` names what may answer
last; a policy that promises something about the backbone's answers needs the backbone there.
"""

from __future__ import annotations

from calex import plugins
from calex.errors import CalexError
from calex.simulation.last import LAST


def check_last(policy: str, last: str, where: str) -> None:
    """Raise CalexError if a policy's promise does not hold with what answers where no branch does."""
    allowed = plugins.constants("policies", policy).get("LAST", LAST)
    if last in LAST and last not in allowed:
        raise CalexError(
            f"{where}: '{policy}' promises something about the backbone's answers, so the backbone must answer last, not '{last}'; "
            f"use last: {' or '.join(allowed)}"
        )
