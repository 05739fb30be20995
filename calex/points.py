"""The table of operating points, one row a point and split: an interface that other people's tools read.

results/README.md explains each column. `points_{dataset}.parquet` has one more, on_front. Beside it the table of
thresholds that points are evaluated at.
"""

from __future__ import annotations

from typing import Any

import polars as pl

SCHEMA: dict[str, Any] = {
    "dataset": pl.String,
    "backbone": pl.String,
    "method": pl.String,
    "variant": pl.String,
    "policy": pl.String,
    "seed": pl.Int64,
    "point": pl.Int64,
    "parameters": pl.String,
    "split": pl.String,
    "n": pl.Int64,
    "accuracy": pl.Float64,
    "agreement": pl.Float64,
    "flops": pl.Float64,
    "flops_fraction": pl.Float64,
    "flops_fraction_exit_only": pl.Float64,
    "exit_share": pl.List(pl.Float64),
}
# A policy's table, {policy}.thresholds.parquet: fold −1 is from all of validation; branches count from 1.
THRESHOLDS: dict[str, Any] = {
    "fold": pl.Int64,
    "point": pl.Int64,
    "parameters": pl.String,
    "branch": pl.Int64,
    "class": pl.Int64,
    "threshold": pl.Float64,
}
MARKED = SCHEMA | {"on_front": pl.Boolean}
