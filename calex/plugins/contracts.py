"""What a file of each kind of plugin must hold: its functions, with what they are given and what they give.

A plugin is a module, so these are protocols that modules fulfil. `OPTIONS` of the plugin arrive as keyword arguments
where a function has `**options`. They are checked when a config is read, as far as that goes without running the
plugin, and again when it is loaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, Protocol

from calex.errors import CalexError
from calex.plugins import modules

if TYPE_CHECKING:
    import numpy as np
    import torch

    from calex.benchmarks import Bench, Row
    from calex.branches.branch import Branch, Branches
    from calex.branches.fitting import TrainingJob
    from calex.images import Images
    from calex.simulation.exits import Exits
    from calex.simulation.rule import Rule


class DatasetSource(Protocol):
    """Images with labels, class names and a fixed split."""

    def load(self, resources: Path, **options: Any) -> Images:
        """resources: the folder for downloads, which may not exist yet."""


class Head(Protocol):
    """What a branch makes of a feature map.

    A head may also have `forward_fused(cores, feature_map)`, if it can run several of its modules over one map faster
    than one by one.
    """

    def build(self, channels: int, height: int, width: int, **options: Any) -> Any:
        """Return a `torch.nn.Module` (B, channels, height, width) float32 → (B, D), whose attribute `width` is D."""


class Target(Protocol):
    """What a branch learns, wherever it sits."""

    def losses(self, logits: torch.Tensor, log_softmax: torch.Tensor, labels: torch.Tensor, **options: Any) -> torch.Tensor:
        """(B,) before weights. logits: (B, C) the branch's. log_softmax: (B, C) the backbone's. labels: (B,) int64."""


class TargetByDepth(Protocol):
    """What a branch learns, which depends on where it sits (`DEPTH = True`)."""

    def losses(
        self, logits: torch.Tensor, log_softmax: torch.Tensor, labels: torch.Tensor, depth: float, **options: Any
    ) -> torch.Tensor:
        """(B,) as of a `Target`. depth: 0 for the first branch, 1 for the last, evenly between."""


class Weighting(Protocol):
    """How much each training image counts; without `SEQUENTIAL` all count the same, and no function is asked."""


class SequentialWeighting(Protocol):
    """A weighting that looks at the branches before (`SEQUENTIAL = True`): branches train one after the other."""

    def survival(self, validation: Exits, train: Exits, correct: str, **options: Any) -> np.ndarray:
        """(N,) float64 in [0, 1]: the chance of each training image to reach the branch after those of `train`."""

    def weights(self, u: np.ndarray, **options: Any) -> np.ndarray:
        """(V, N) float64 with mean 1 from the survival of all views together."""


class Policy(Protocol):
    """From exits of validation images to thresholds, for a sweep of operating points.

    A policy may make a score of its own out of all exits so far, by three functions more:

    - `scores(so_far, learnt, **options)` gives what thresholds are compared with, (k, N), or (P, k, N) for a score of each
      point, from the `SoFar` of the first k exits. Row j may depend on exits up to j alone: that is how a cascade runs.
    - `learn(exits, parameters, correct, **options)` gives what the scores depend on: {name: (P, …) float}, or (1, …) where
      it is the same for all points. Without it nothing is learnt.
    - `flops(branches, classes, **options)` gives what the score costs at each branch, (K,), if it is not next to nothing.

    `LOG_SOFTMAX = True`: its scores read the whole log-softmax of each exit. `diagnosis(exits, **options)` gives what it knows
    about whether these images are enough to choose thresholds from: numbers by name, and warnings, one line each.
    """

    def parameters(self, **options: Any) -> dict[str, np.ndarray]:
        """Return what is swept over P operating points, cheapest first: {name: (P,)}."""

    def thresholds(self, exits: Exits, parameters: dict[str, np.ndarray], correct: str, **options: Any) -> np.ndarray:
        """(P, K, C) float64: an image leaves at branch k if its score there is at least that of the class it answers.

        −∞ lets every image go, +∞ none. The scores of `exits` are those that the policy makes; `exits.answers` has what is
        answered at each exit, the end included.
        """


class PolicyOver(Protocol):
    """A policy that decides over the operating points of another, which its option `path` names (`OVER = True`)."""

    def parameters(self, **options: Any) -> dict[str, np.ndarray]:
        """Return what is swept over P operating points, cheapest first: {name: (P,)}."""

    def choose(
        self, exits: Exits, calibrate: Callable[[Exits], Rule], parameters: dict[str, np.ndarray], **options: Any
    ) -> tuple[Rule, dict[str, Any], list[str]]:
        """Return the rule of P points, and what is known about it: numbers by name, and warnings, one line each.

        calibrate: calibrates the other policy on some of the exits.
        """


class Recipe(Protocol):
    """How one branch trains, in a job of its own."""

    def train(self, branch: Branch, job: TrainingJob) -> list[float]:
        """Return the mean loss of each epoch."""


class JointRecipe(Protocol):
    """How all branches of a cascade train together (`JOINT = True`); every image counts the same."""

    def build(
        self,
        head: dict[str, Any],
        shapes: Sequence[tuple[int, int, int]],
        classes: int,
        shared_core: bool,
        settings: dict[str, Any],
        seed: int,
    ) -> Branches:
        """Return the branches, over taps of these shapes (C, H, W); exits that need each other are a class of its own."""

    def train(self, cascade: Branches, job: TrainingJob) -> list[float]:
        """Return the mean loss of each epoch. The job's loader reads all taps aligned."""


class Benchmark(Protocol):
    """How fast something is."""

    def measure(self, bench: Bench) -> list[Row]:
        """Return what was measured, a row for each comparison."""


# What a plugin of a kind must fulfil; and, where a constant of its own decides, which constant, and then what.
CONTRACTS: dict[str, tuple[type, str | None, type]] = {
    "datasets": (DatasetSource, None, DatasetSource),
    "heads": (Head, None, Head),
    "targets": (Target, "DEPTH", TargetByDepth),
    "weightings": (Weighting, "SEQUENTIAL", SequentialWeighting),
    "policies": (Policy, "OVER", PolicyOver),
    "recipes": (Recipe, "JOINT", JointRecipe),
    "benchmarks": (Benchmark, None, Benchmark),
}


def needed(kind: str, constants: Mapping[str, Any]) -> dict[str, inspect.Signature]:
    """Return the functions that a plugin of a kind must have; `constants` are its own."""
    plain, flag, other = CONTRACTS[kind]
    contract = other if flag is not None and constants.get(flag, False) else plain
    functions = {name: value for name, value in vars(contract).items() if inspect.isfunction(value) and name[0] != "_"}
    signatures = {name: inspect.signature(function) for name, function in functions.items()}
    return {name: given.replace(parameters=list(given.parameters.values())[1:]) for name, given in signatures.items()}


def spelt(kind: str, constants: Mapping[str, Any]) -> str:
    """Return the needed functions as one would write them: `build(channels, height, width, **options)`."""
    return " and ".join(
        f"{name}({', '.join(str(one).split(':')[0] for one in signature.parameters.values())})"
        for name, signature in needed(kind, constants).items()
    )


# The options that every plugin of a kind must have: the loader of features reads in batches.
OPTIONS = {"recipes": ("batch_size",)}

# What a plugin says of itself, with the type of each; it is read without running the plugin.
CONSTANTS = {
    "OPTIONS": dict,
    "CHOICES": dict,
    "RANGES": dict,
    "PATHS": list | tuple | set,
    "SCORES": list | tuple | set,
    "TARGETS": list | tuple | set,
    "JOINT": bool,
    "SEQUENTIAL": bool,
    "OVER": bool,
    "LOG_SOFTMAX": bool,
    "DEPTH": bool,
    "LAST": list | tuple | set,
}


def check_source(kind: str, file: Path, where: str) -> None:
    """Raise CalexError if a plugin's source does not define what its kind needs, or says of itself what cannot be read."""
    names, constants = modules.defined(file), modules.constants(file)
    for name, expected in CONSTANTS.items():
        if name in names and not isinstance(constants.get(name), expected):
            like = getattr(expected, "__name__", "list")
            raise CalexError(
                f"{where}: {file}: {name} must be a {like} written out in one assignment; it is read without running the file"
            )
    missing = [name for name in needed(kind, constants) if name not in names and "*" not in names]
    if missing:
        raise _refusal(kind, file, constants, f"has no function {' and no '.join(map(repr, missing))}", where)
    options = constants.get("OPTIONS", {})
    if lacking := [key for key in OPTIONS.get(kind, ()) if key not in options]:
        raise CalexError(
            f"{where}: {file}: OPTIONS lacks '{lacking[0]}', which is read outside the plugin too; give it a default"
        )
    for key, default in options.items():
        if not isinstance(key, str) or not isinstance(default, bool | int | float | str | list | None):
            raise CalexError(
                f"{where}: {file}: OPTIONS: {key!r}: {default!r}; a default is a number, a text, a truth value, a list or None"
            )
    for name in ("CHOICES", "RANGES", "PATHS"):
        if strange := [key for key in constants.get(name, ()) if key not in options]:
            raise CalexError(f"{where}: {file}: {name} of '{strange[0]}', which is not among OPTIONS")


def check_module(kind: str, module: ModuleType, file: Path, where: str) -> None:
    """Raise CalexError if a plugin's functions cannot be called as its kind calls them."""
    constants = modules.constants(file)
    for name, signature in needed(kind, constants).items():
        function = getattr(module, name, None)
        if not callable(function):
            raise _refusal(kind, file, constants, f"has no function '{name}'", where)
        given = [one for one in signature.parameters.values() if one.kind is not one.VAR_KEYWORD]
        options = constants.get("OPTIONS", {}) if len(given) < len(signature.parameters) else {}
        try:
            inspect.signature(function).bind(*given, **options)
        except TypeError as error:
            with_options = f" with its options {', '.join(options)}" if options else ""
            fault = f"has a function '{name}' that cannot be called so{with_options} ({error})"
            raise _refusal(kind, file, constants, fault, where) from None


def _refusal(kind: str, file: Path, constants: Mapping[str, Any], fault: str, where: str) -> CalexError:
    return CalexError(f"{where}: {file} {fault}; what is named here must have {spelt(kind, constants)}")
