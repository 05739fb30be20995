"""Run the cascade at every operating point: {policy}.points.parquet, and the exit of each test image: {policy}.exits.npz.

Beside these exits it keeps what is answered where no branch answers, of which the comparison of curves makes answers.
Thresholds from all validation images are applied to test images, those from the other folds to validation images.
Without thresholds two bounds are evaluated: policy `oracle`, with which each image leaves at the earliest branch that is right,
and in further rows policy `clairvoyant`, which knows all outputs of an image but not its label.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from calex.errors import CalexError
from calex.simulation import cascade, ceiling, crossfit, evaluation, exits, threshold_table
from calex.simulation.points import SCHEMA
from calex.steps import _exits
from calex.system.files import read_json, remedy, write_npz
from calex.system.progress import say
from calex.system.replacing import replacing
from calex.workflow import settings_argument

POINTS = ".points.parquet"
SPLITS = ("val", "test")
CLAIRVOYANT_FOLDS = 5
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
        help='JSON: {"policy": {"name": "cpm", …}, "score", "last", "correct"}; the oracle needs no policy',
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
        splits = {split: exits.read(args.exits, split, chosen["score"]) for split in SPLITS}
        taken = {split: cascade.oracle(each, chosen["correct"]) for split, each in splits.items()}
        seeing = clairvoyant(args.exits, splits, chosen["correct"])
        prices = threshold_table.parameters_as_json({"price": ceiling.PRICES})
        points = pl.concat([table(splits, taken, ["{}"], key), table(splits, seeing, prices, key | {"policy": "clairvoyant"})])
    else:
        chosen = settings_argument.with_policy(chosen)
        splits = {split: _exits.read(args.exits, split, chosen) for split in SPLITS}
        validation = splits["val"]
        calibrated = threshold_table.read(args.thresholds, len(validation.predictions), validation.classes)
        rule, of_folds = calibrated.rules(*chosen.load_scorer())
        folds = read_folds(threshold_table.record_beside(args.thresholds), len(validation.labels), len(of_folds))
        taken = {"val": crossfit.leave(validation, folds, of_folds), "test": rule.leave(splits["test"])}
        points = table(splits, taken, calibrated.parameters, key)
    with replacing(args.out) as partial:
        points.write_parquet(partial)
    last = splits["test"].answers[-1].astype(np.min_scalar_type(splits["test"].classes))
    write_npz(args.out.with_name(args.out.name.removesuffix(POINTS) + ".exits.npz"), {"exit": taken["test"], "last": last})
    cost = points.filter(split="test", policy=key["policy"])["flops_fraction"].to_numpy()
    who = f"{key['method']} {key['policy']} seed {key['seed']}"
    say(f"evaluate {who}: {len(cost)} points, cost {cost.min():.3f} to {cost.max():.3f} of the backbone on test")


def table(
    splits: dict[str, exits.Exits], taken: dict[str, np.ndarray], parameters: list[str], key: dict[str, str | int]
) -> pl.DataFrame:
    """Measure each operating point over each split: one row a point and split, `points.SCHEMA`."""
    rows = [
        evaluation.measure(splits[split], taken[split]).with_columns(
            *(pl.lit(value, SCHEMA[name]).alias(name) for name, value in key.items()),
            parameters=pl.Series(parameters),
            split=pl.lit(split),
        )
        for split in SPLITS
    ]
    return pl.concat(rows).select(*SCHEMA)


def clairvoyant(paths: Sequence[Path], splits: dict[str, exits.Exits], correct: str) -> dict[str, np.ndarray]:
    """Find where the clairvoyant lets each image leave, (P, N) uint8 by split: fitted on validation images, there by folds."""
    known, right = {}, {}
    for split, each in splits.items():
        whole = [*exits.read_log_softmax(paths, split), exits.read_backbone_log_softmax(paths[0], split)]
        answers = np.vstack([each.predictions, each.backbone])
        known[split], right[split] = ceiling.features(np.stack(whole), answers), answers == each.truth(correct)
    x, y, folds = known["val"], right["val"], crossfit.assign_folds(splits["val"].backbone, CLAIRVOYANT_FOLDS)
    eta = {"val": np.empty(y.shape), "test": ceiling.chance_of_right((x, y), known["test"])}
    for fold in np.unique(folds):
        inside = folds == fold
        eta["val"][:, inside] = ceiling.chance_of_right((x[:, ~inside], y[:, ~inside]), x[:, inside])
    return {split: ceiling.clairvoyant(eta[split], splits[split].costs) for split in SPLITS}
