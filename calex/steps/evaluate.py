"""Run the cascade at every operating point: {policy}.points.parquet, and the exit of each image: {policy}.exits.npz.

Thresholds from all validation images are applied to test images, those from the other folds to validation images.
Without thresholds the oracle is evaluated: each image leaves at the earliest branch that is right.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from calex.errors import CalexError
from calex.simulation import cascade, crossfit, evaluation, exits, threshold_table
from calex.simulation.points import SCHEMA
from calex.simulation.rule import charged
from calex.system.files import read_json, remedy, replacing, write_npz
from calex.system.progress import say
from calex.workflow import settings_argument

POINTS = ".points.parquet"
KEY = ("dataset", "backbone", "method", "variant", "policy", "seed")

LOWER = "the policy's `steps`"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every branch, in order")
    parser.add_argument(
        "--thresholds", type=Path, help="{policy}.thresholds.parquet, its record beside it; without it the oracle is evaluated"
    )
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"policy": {"name": "cpm", …}, "score", "correct"}; the oracle needs no policy',
    )
    parser.add_argument(
        "--key",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"dataset", "backbone", "method", "variant", "policy", "seed"}, for the rows',
    )
    parser.add_argument("--out", type=Path, required=True, help="the operating points to write (.points.parquet)")


def read_folds(path: Path, images: int, count: int) -> np.ndarray:
    """Read which fold each validation image was in when thresholds were calibrated: (N,) int64."""
    folds = read_json(path, "fold_of_image")["fold_of_image"]
    whole = isinstance(folds, list) and len(folds) == images
    if not whole or not all(type(fold) is int and 0 <= fold < count for fold in folds):
        raise CalexError(f"{path}: 'fold_of_image' is not the fold, 0..{count - 1}, of each of {images} images; {remedy(path)}")
    return np.array(folds)


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    if not args.out.name.endswith(POINTS):
        raise CalexError(f"--out: {args.out} must end in {POINTS}; the exits go beside it, in .exits.npz")
    key = {name: args.key[name] for name in KEY}
    for name, value in key.items():
        if not isinstance(value, int if SCHEMA[name] == pl.Int64 else str):
            raise CalexError(f"--key: '{name}' is {value!r}, which is no {SCHEMA[name]}")
    if args.thresholds is None:
        splits = {split: exits.read(args.exits, split, chosen["score"]) for split in ("val", "test")}
        taken = {split: cascade.oracle(each, chosen["correct"]) for split, each in splits.items()}
        parameters = ["{}"]
    else:
        policy, options = settings_argument.with_policy(chosen).load_scorer()
        whole = getattr(policy, "LOG_SOFTMAX", False)
        splits = {
            split: charged(policy, exits.read(args.exits, split, chosen["score"], whole), options) for split in ("val", "test")
        }
        validation = splits["val"]
        calibrated = threshold_table.read(args.thresholds, len(validation.predictions), validation.classes)
        rule, of_folds = calibrated.rules(policy, options)
        folds = read_folds(threshold_table.record_beside(args.thresholds), len(validation.labels), len(of_folds))
        taken = {"val": crossfit.leave(validation, folds, of_folds), "test": rule.leave(splits["test"])}
        parameters = calibrated.parameters
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
