"""Turn exits into thresholds by a policy, on validation images only: {policy}.thresholds.parquet.

A record beside it, {policy}.calibration.json, says whether these images were enough to choose from: how many of the
operating points are distinct, and what the policy itself knows.

Besides the thresholds from all of validation (fold −1, for test images) there is a set for each fold, made
without it: with these, validation images are judged by thresholds that never saw them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from calex import cascade, exits, plugins, settings
from calex.calibration import folds
from calex.errors import CalexError
from calex.files import canonical_json, replacing, write_json
from calex.points import THRESHOLDS
from calex.progress import say, warn

# Operating points: fewer distinct ones than this share of them, or than this number, are few to choose from.
FEW_SHARE, FEW = 0.1, 5

LOWER = "the policy's `steps`, or evaluation.folds"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every branch, in order")
    parser.add_argument(
        "--settings",
        type=settings.parse,
        required=True,
        help='JSON: {"policy": {"name": "cpm", …}, "score", "correct", "folds"}',
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the thresholds to write (.parquet); the record goes beside them"
    )


def run(args: argparse.Namespace) -> None:
    chosen = settings.completed(args.settings, policy="policies")
    validation = exits.read(args.exits, "val", chosen["score"])
    count, size = chosen["folds"], len(validation.labels)
    if not isinstance(count, int) or not 2 <= count <= size:
        raise CalexError(
            f"evaluation.folds: {count!r} folds of {size} validation images; set it to 2 or more, up to {size}, or hold out more"
        )
    policy, options = plugins.load("policies", chosen["policy"]["name"]), plugins.options_of(chosen["policy"])
    swept = policy.parameters(**options)
    assigned = folds(validation.backbone, count)
    populations = {-1: np.ones(size, bool)} | {fold: assigned != fold for fold in range(count)}
    found = np.stack(
        [policy.thresholds(validation.of(kept), swept, chosen["correct"], **options) for kept in populations.values()]
    )
    fold, point, branch, label = np.indices(found.shape).reshape(4, -1)
    frame = pl.DataFrame(
        {
            "fold": np.array(list(populations))[fold],
            "point": point,
            "parameters": pl.Series([canonical_json(parameters) for parameters in swept])[point],
            "branch": branch + 1,
            "class": label,
            "threshold": found.ravel(),
        },
        schema=THRESHOLDS,
    )
    distinct, warnings = distinct_points(validation, found[0], getattr(policy, "REMEDY", ""))
    numbers, more = policy.diagnosis(validation, **options) if hasattr(policy, "diagnosis") else ({}, [])
    record = {
        "images": size,
        "classes": found.shape[3],
        "branches": found.shape[2],
        "operating_points": found.shape[1],
        "distinct_operating_points": distinct,
        **numbers,
        "warnings": warnings + more,
    }
    with replacing(args.out) as partial:
        frame.write_parquet(partial)
    stem = args.out.name.removesuffix(".parquet").removesuffix(".thresholds")
    write_json(args.out.with_name(f"{stem}.calibration.json"), record)
    who = f"calibrate {stem}"
    say(f"{who}: " + ", ".join(f"{name} {value}" for name, value in record.items() if name != "warnings"))
    for warning in record["warnings"]:
        warn(f"{who}: {warning}")


def distinct_points(validation: exits.Exits, thresholds: np.ndarray, remedy: str) -> tuple[int, list[str]]:
    """How many operating points, thresholds (P, K, C), let validation images leave differently; a warning, if these are few."""
    points, images = len(thresholds), len(validation.labels)
    distinct = len({taken.tobytes() for taken in cascade.leave(validation, thresholds)})
    if distinct >= min(points, max(FEW, FEW_SHARE * points)):
        return distinct, []
    return distinct, [
        f"only {distinct} of {points} operating points differ on the {images} validation images: there is little to choose from; "
        + ", ".join(filter(None, ["hold out more validation images", remedy]))
    ]
