"""The table of thresholds, {policy}.thresholds.parquet: one row per operating point, branch, class and set of images.

Each set is fitted on some of the validation images: fold −1 on all of them, for test images, fold f on those outside fold f.
In the file branches count from 1, in arrays from 0; this module converts. Beside it lies {policy}.learnt.npz, what else the
policy's scores depend on: arrays (F + 1, P, …), first those of fold −1, with 1 for P where all points share them. Of most
policies it is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calex.errors import CalexError
from calex.simulation.rule import Rule
from calex.system.files import canonical_json, read_npz, read_parquet, remedy, write_npz
from calex.system.replacing import replacing

ALL = -1  # the fold of thresholds from all validation images
SCHEMA: dict[str, Any] = {
    "fold": pl.Int64,
    "point": pl.Int64,
    "parameters": pl.String,
    "branch": pl.Int64,
    "class": pl.Int64,
    "threshold": pl.Float64,
}
KEY = ("fold", "point", "branch", "class")


@dataclass(frozen=True)
class Thresholds:
    """A policy's thresholds at P operating points of K branches over C classes, with F folds.

    Parameters
    ----------
    of_all : (P, K, C) float64
        From all validation images.
    of_folds : (F, P, K, C) float64
        Those of fold f from the validation images outside it.
    parameters : list of str
        What each point was swept at, canonical JSON.
    learnt : {name: (F + 1, P, …) or (F + 1, 1, …)}
        What else the policy's scores depend on, first from all validation images, then of each fold.
    """

    of_all: np.ndarray
    of_folds: np.ndarray
    parameters: list[str]
    learnt: Mapping[str, np.ndarray] = field(default_factory=dict)

    @staticmethod
    def of(rule: Rule, of_folds: Sequence[Rule], parameters: dict[str, np.ndarray]) -> Thresholds:
        """Gather the rules that a policy was calibrated to on all validation images and without each fold."""
        learnt = {name: np.stack([each.learnt[name] for each in (rule, *of_folds)]) for name in rule.learnt}
        thresholds = np.stack([each.thresholds for each in of_folds])
        return Thresholds(rule.thresholds, thresholds, parameters_as_json(parameters), learnt)

    def rules(self, policy: Any = None, options: Mapping[str, Any] | None = None) -> tuple[Rule, list[Rule]]:
        """Make the rules again, from all validation images and of each fold; `policy` is what scores are made by."""
        all_rules = [
            Rule(values, {name: value[place] for name, value in self.learnt.items()}, policy, options or {})
            for place, values in enumerate([self.of_all, *self.of_folds])
        ]
        return all_rules[0], all_rules[1:]


def parameters_as_json(parameters: dict[str, np.ndarray]) -> list[str]:
    """Write each operating point of a sweep, {name: (P,)}, as canonical JSON: `{"margin":0.35}`."""
    points = zip(*(values.tolist() for values in parameters.values()), strict=True)
    return [canonical_json(dict(zip(parameters, point, strict=True))) for point in points]


def write(path: Path, thresholds: Thresholds) -> None:
    """Write the table, and beside it what else was learnt; each file is complete or not there at all."""
    values = np.concatenate([thresholds.of_all[None], thresholds.of_folds])
    fold, point, branch, label = np.indices(values.shape).reshape(4, -1)
    frame = pl.DataFrame(
        {
            "fold": fold + ALL,
            "point": point,
            "parameters": pl.Series(thresholds.parameters)[point],
            "branch": branch + 1,
            "class": label,
            "threshold": values.ravel(),
        },
        schema=SCHEMA,
    )
    with replacing(path) as partial:
        frame.write_parquet(partial)
    write_npz(learnt_beside(path), dict(thresholds.learnt))


def read(path: Path, branches: int, classes: int) -> Thresholds:
    """Read the table of a cascade of K branches over C classes.

    Raises
    ------
    CalexError
        If the file is damaged, of another number of branches or classes, or holds a threshold that is no number.
    """
    frame = read_parquet(path, SCHEMA).sort(KEY)
    points = frame.unique("point").sort("point")
    shape = (frame["fold"].n_unique(), len(points), branches, classes)
    expected = np.indices(shape).reshape(4, -1).T + np.array([ALL, 0, 1, 0])
    if not np.array_equal(frame.select(KEY).to_numpy(), expected) or shape[0] < 3:
        raise CalexError(f"{path}: its thresholds are not those of {branches} branches and {classes} classes; {remedy(path)}")
    if frame["threshold"].is_nan().any():
        raise CalexError(f"{path}: a threshold is not a number; {remedy(path)}")
    values = frame["threshold"].to_numpy().reshape(shape)
    learnt = read_npz(learnt_beside(path))
    for name, value in learnt.items():
        if value.dtype.kind != "f" or value.ndim < 2 or len(value) != shape[0] or value.shape[1] not in (1, shape[1]):
            raise CalexError(
                f"{learnt_beside(path)}: '{name}' is {value.dtype} {value.shape}, not floats of {shape[0]} sets of "
                f"{shape[1]} points; {remedy(learnt_beside(path))}"
            )
        if not np.isfinite(value).all():
            raise CalexError(f"{learnt_beside(path)}: '{name}' has a value that is no number; {remedy(learnt_beside(path))}")
    return Thresholds(values[0], values[1:], points["parameters"].to_list(), learnt)


def record_beside(path: Path) -> Path:
    """Name the record of a calibration, {policy}.calibration.json, by its thresholds' path."""
    return _beside(path, ".calibration.json")


def learnt_beside(path: Path) -> Path:
    """Name what else a policy learnt, {policy}.learnt.npz, by its thresholds' path."""
    return _beside(path, ".learnt.npz")


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name.removesuffix(".parquet").removesuffix(".thresholds") + ending)
