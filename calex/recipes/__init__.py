"""One file per training recipe, with the function of `calex.plugins.contracts.Recipe`, which trains one branch per job.

`JOINT = True`: all branches of a cascade train in one job, with the functions of `calex.plugins.contracts.JointRecipe`.

`SCORES` and `TARGETS` name the scores that its exits hold and the targets that it can learn; without them, all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from calex import plugins
from calex.errors import CalexError, suggestion
from calex.simulation.scores import SCORES


def constant(name: str, key: str, default: object) -> object:
    """Return a constant of a recipe, read without importing it."""
    return plugins.constants("recipes", name).get(key, default)


def joint(name: str) -> bool:
    """Tell whether a recipe trains all branches at once."""
    return bool(constant(name, "JOINT", False))


def check_target(recipe: str, target: str, where: str) -> None:
    """Raise CalexError if the recipe cannot learn this target."""
    _among(recipe, target, constant(recipe, "TARGETS", [target]), f"{where}.name", "learns no target")


def check_score(recipe: str, score: str, where: str) -> None:
    """Raise CalexError if the recipe's exits do not hold this score."""
    _among(recipe, score, constant(recipe, "SCORES", SCORES), where, "gives no score")


def check_weighting(recipe: str, weighting: str, where: str) -> None:
    """Raise CalexError if the weighting looks at earlier branches and the recipe trains all at once."""
    if joint(recipe) and plugins.constants("weightings", weighting).get("SEQUENTIAL", False):
        raise CalexError(
            f"{where}.name: '{weighting}' looks at earlier branches, but the recipe '{recipe}' trains all at once; use uniform"
        )


def check_warmup(recipe: str, options: Mapping[str, Any], where: str) -> None:
    """Raise CalexError if a warm-up that is a part of a recipe's epochs (`WARMUP`) leaves none for what follows it."""
    if constant(recipe, "WARMUP", False) and 0 < (epochs := options["epochs"]) <= (warmup := options["warmup"]):
        raise CalexError(
            f"{where}: warmup: {warmup} of epochs: {epochs} leaves none in which '{recipe}' learns when to answer; lower warmup"
        )


def _among(recipe: str, name: str, known: object, where: str, lacks: str) -> None:
    assert isinstance(known, list | tuple)
    if name not in known:
        raise CalexError(f"{where}: the recipe '{recipe}' {lacks} '{name}', {suggestion(name, known)}")
