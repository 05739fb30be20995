"""Reading and checking the tables that a report is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from calex.comparison import paired as pairs
from calex.comparison.pareto import POINT, deployable
from calex.errors import CalexError
from calex.report.formatting import joined
from calex.simulation.points import MARKED
from calex.system.files import read_parquet


def read_points(path: str | Path) -> pl.DataFrame:
    """Read the operating points of a finished comparison, `points_{dataset}.parquet`.

    Parameters
    ----------
    path : path
        The file; results/README.md explains its columns.

    Returns
    -------
    DataFrame
        One row for each operating point and split.

    Raises
    ------
    CalexError
        If the file is damaged, or is not a table of one dataset with at least one method.

    Examples
    --------
    In the folder of a finished run:

    >>> points = read_points("results/points_digits.parquet")
    >>> points["split"].unique().sort().to_list()
    ['test', 'val']
    """
    points = read_parquet(path, MARKED)
    check(points, str(path))
    return points


def read_paired(path: str | Path, points: pl.DataFrame) -> pl.DataFrame:
    """Read the table of paired differences, or raise a `CalexError` if it is not one of the same dataset."""
    paired = read_parquet(path, pairs.SCHEMA, gaps=pairs.NULLABLE)
    if set(paired["dataset"]) - set(points["dataset"]):
        raise CalexError(f"{path}: is about {joined(sorted(set(paired['dataset'])))}, not {points['dataset'][0]}")
    return paired


def check(points: pl.DataFrame, source: str) -> None:
    """Check what a report relies on: one dataset, methods to show, one row per point and split, values in their range."""
    if points["dataset"].n_unique() != 1:
        datasets = joined(sorted(points["dataset"].unique())) if len(points) else "no rows"
        raise CalexError(f"{source}: a report is about one dataset, this table has {datasets}; filter it by `dataset`")
    if not len(deployable(points)):
        raise CalexError(
            f"{source}: no operating points besides those of the backbone and of bounds; evaluate at least one method"
        )
    if points.select(*POINT, "split").is_duplicated().any():
        row = points.filter(points.select(*POINT, "split").is_duplicated()).row(0, named=True)
        raise CalexError(f"{source}: {_name(row)} appears twice for split {row['split']}; a point has one row per split")
    splits = points.group_by(POINT, maintain_order=True).agg(pl.col("split").sort())
    incomplete = splits.filter(pl.col("split") != ["test", "val"])
    if len(incomplete):
        row = incomplete.row(0, named=True)
        raise CalexError(f"{source}: {_name(row)} has rows for split {joined(row['split'])}; it needs exactly val and test")
    wrong = points.filter(
        ~pl.col("accuracy").is_between(0, 1) | ~(pl.col("flops_fraction").is_finite() & (pl.col("flops_fraction") > 0))
        | pl.any_horizontal(pl.col("accuracy", "flops_fraction", "exit_share").is_null())
    )  # fmt: skip
    if len(wrong):
        row = wrong.row(0, named=True)
        raise CalexError(
            f"{source}: {_name(row)} has accuracy {row['accuracy']} at flops_fraction {row['flops_fraction']}; "
            "expected an accuracy in [0, 1] and a positive, finite cost"
        )


def _name(row: dict[str, Any]) -> str:
    return f"point {row['point']} of {row['backbone']}/{row['method']}/{row['variant']}/{row['policy']}/seed{row['seed']}"
