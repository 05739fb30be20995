"""The table of thresholds, {policy}.thresholds.parquet: one row per operating point, branch, class and set of images.

Each set is fitted on some of the validation images: fold −1 on all of them, for test images, fold f on those outside fold f.
In the file branches count from 1, in arrays from 0; this module converts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calex.errors import CalexError
from calex.system.files import canonical_json, read_parquet, remedy, replacing

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
    """

    of_all: np.ndarray
    of_folds: np.ndarray
    parameters: list[str]


def parameters_as_json(parameters: dict[str, np.ndarray]) -> list[str]:
    """Write each operating point of a sweep, {name: (P,)}, as canonical JSON: `{"margin":0.35}`."""
    points = zip(*(values.tolist() for values in parameters.values()), strict=True)
    return [canonical_json(dict(zip(parameters, point, strict=True))) for point in points]


def write(path: Path, thresholds: Thresholds) -> None:
    """Write the table, completely or not at all."""
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
    return Thresholds(values[0], values[1:], points["parameters"].to_list())


def record_beside(path: Path) -> Path:
    """Name the record of a calibration, {policy}.calibration.json, by its thresholds' path."""
    return path.with_name(f"{path.name.removesuffix('.parquet').removesuffix('.thresholds')}.calibration.json")
