"""The table of operating points, as a file that other people's tools read.

An operating point is a cascade with one setting of a policy's swept parameters. results/README.md explains each column.
"""

from __future__ import annotations

from typing import Any

import polars as pl

# One row for each point and split. Costs: mean FLOPs of an image, and as shares of the plain backbone's. exit_share: K + 1
# shares of images, of the K branches and then the backbone.
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
# points_{dataset}.parquet: every point of a dataset.
MARKED = SCHEMA | {"on_front": pl.Boolean}
