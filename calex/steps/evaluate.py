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
from calex.points import SCHEMA, THRESHOLDS
from calex.progress import say

POINTS = ".points.parquet"
KEY = ("dataset", "backbone", "method", "variant", "policy", "seed")

LOWER = "the policy's `steps`"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every branch, in order")
    parser.add_argument("--thresholds", type=Path, help="{policy}.thresholds.parquet; without it the oracle is evaluated")
    parser.add_argument("--settings", type=settings.parse, required=True, help='JSON: {"score", "correct"}')
    parser.add_argument(
        "--key",
        type=settings.parse,
        required=True,
        help='JSON: {"dataset", "backbone", "method", "variant", "policy", "seed"}, for the rows',
    )
    parser.add_argument("--out", type=Path, required=True, help="the operating points to write (.points.parquet)")


def table(path: Path, branches: int, classes: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Folds (F,), thresholds (F, P, K, C) and each point's parameters, from a thresholds file."""
    key = ("fold", "point", "branch", "class")
    frame = read_parquet(path, THRESHOLDS).sort(key)
    points = frame.unique("point").sort("point")
    shape = (frame["fold"].n_unique(), len(points), branches, classes)
    expected = np.indices(shape).reshape(4, -1).T + np.array([-1, 0, 1, 0])
    if not np.array_equal(frame.select(key).to_numpy(), expected) or shape[0] < 3:
        raise CalexError(f"{path}: its thresholds are not those of {branches} branches and {classes} classes; rerun calibrate")
    if frame["threshold"].is_nan().any():
        raise CalexError(f"{path}: a threshold is not a number; rerun calibrate")
    return np.arange(-1, shape[0] - 1), frame["threshold"].to_numpy().reshape(shape), points["parameters"].to_list()


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    if not args.out.name.endswith(POINTS):
        raise CalexError(f"--out: {args.out} must end in {POINTS}; the exits go beside it, in .exits.npz")
    key = {name: args.key[name] for name in KEY}
    for name, value in key.items():
        if not isinstance(value, int if SCHEMA[name] == pl.Int64 else str):
            raise CalexError(f"--key: '{name}' is {value!r}, which is no {SCHEMA[name]}")
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
            *(pl.lit(value, SCHEMA[name]).alias(name) for name, value in key.items()),
            parameters=pl.Series(parameters),
            split=pl.lit(split),
        )
        for split in ("val", "test")
    ]
    points = pl.concat(rows).select(*SCHEMA)
    with replacing(args.out) as partial:
        points.write_parquet(partial)
    write_npz(args.out.with_name(args.out.name.removesuffix(POINTS) + ".exits.npz"), {"exit": taken["test"]})
    cost = points.filter(pl.col("split") == "test")["flops_fraction"].to_numpy()
    who = f"{key['method']} {key['policy']} seed {key['seed']}"
    say(f"evaluate {who}: {len(parameters)} points, cost {cost.min():.3f} to {cost.max():.3f} of the backbone on test")
