"""Run the cascade at every operating point: {policy}.points.parquet, and who left where: {policy}.exits.npz.

Test images meet the thresholds from all of validation; validation images those of their own fold's complement.
Without thresholds it is the oracle that is evaluated: each image leaves at the earliest branch that is right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from calex import cascade, evaluation, exits, settings
from calex.calibration import folds
from calex.errors import CalexError
from calex.files import read_parquet, replacing, write_npz
from calex.points import SCHEMA
from calex.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every branch, in order")
    parser.add_argument("--thresholds", type=Path, help="{policy}.thresholds.parquet; without it the oracle is evaluated")
    parser.add_argument("--settings", type=settings.parse, required=True, help='JSON: {"score", "correct", "folds"}')
    parser.add_argument(
        "--key",
        type=settings.parse,
        required=True,
        help='JSON: {"dataset", "backbone", "method", "variant", "policy", "seed"}, for the rows',
    )
    parser.add_argument("--out", type=Path, required=True, help="the operating points to write (.points.parquet)")


def table(path: Path, branches: int, classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Folds (F,), thresholds (F, P, K, C) and each point's parameters, from a thresholds file."""
    frame = read_parquet(path).sort("fold", "point", "branch", "class")
    assigned = frame["fold"].unique().sort().to_numpy()
    points = frame.unique("point").sort("point")
    shape = (len(assigned), len(points), branches, classes)
    if len(frame) != np.prod(shape):
        raise CalexError(f"{path}: {len(frame)} thresholds where the exits ask for {shape}; rerun calibrate")
    return assigned, frame["threshold"].to_numpy().reshape(shape), points["parameters"].to_list()


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    splits = {split: exits.read(args.exits, split, chosen["score"]) for split in ("val", "test")}
    validation, test = splits["val"], splits["test"]
    if args.thresholds is None:
        taken = {split: cascade.oracle(each, chosen["correct"]) for split, each in splits.items()}
        parameters = ["{}"]
    else:
        fold, thresholds, parameters = table(args.thresholds, len(validation.predictions), validation.classes)
        assigned = folds(validation.backbone, int(fold.max()) + 1)
        taken = {
            "val": evaluation.cross_fitted(validation, assigned, thresholds[fold >= 0]),
            "test": cascade.leave(test, thresholds[fold < 0][0]),
        }
    rows = [
        evaluation.measure(splits[split], taken[split]).with_columns(
            *(pl.lit(value, SCHEMA[name]).alias(name) for name, value in args.key.items()),
            parameters=pl.Series(parameters),
            split=pl.lit(split),
        )
        for split in ("val", "test")
    ]
    points = pl.concat(rows).select(*SCHEMA)
    with replacing(args.out) as partial:
        points.write_parquet(partial)
    write_npz(args.out.with_name(args.out.name.replace(".points.parquet", ".exits.npz")), {"exit": taken["test"]})
    cost = points.filter(pl.col("split") == "test")["flops_fraction"].to_numpy()
    who = f"{args.key['method']} {args.key['policy']} seed {args.key['seed']}"
    say(f"evaluate {who}: {len(parameters)} points, cost {cost.min():.3f} to {cost.max():.3f} of the backbone on test")
