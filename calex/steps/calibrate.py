"""Turn exits into thresholds by a policy, on validation images only: {policy}.thresholds.parquet.

A record beside it, {policy}.calibration.json, says which fold each image is in, and whether these images were enough to
choose from: how many of the operating points are distinct, and what the policy itself knows.

Besides the thresholds from all of validation (fold −1, for test images) there is a set for each fold, made
without it: with these, validation images are judged by thresholds that never saw them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from calex import plugins
from calex.errors import CalexError
from calex.simulation import cascade, crossfit, exits, threshold_table
from calex.system.files import write_json
from calex.system.progress import say, warn
from calex.workflow import settings_argument

# Operating points: fewer distinct ones than this share of them, or than this number, are few to choose from.
FEW_SHARE, FEW = 0.1, 5

LOWER = "the policy's `steps`, or evaluation.folds"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every branch, in order")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"policy": {"name": "cpm", …}, "score", "correct", "folds"}',
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the thresholds to write (.parquet); the record goes beside them"
    )


def run(args: argparse.Namespace) -> None:
    chosen = settings_argument.completed(args.settings, policy="policies")
    validation = exits.read(args.exits, "val", chosen["score"])
    count, size = chosen["folds"], len(validation.labels)
    if not isinstance(count, int) or not 2 <= count <= size:
        raise CalexError(
            f"evaluation.folds: {count!r} folds of {size} validation images; set it to 2 or more, up to {size}, or hold out more"
        )
    policy, options = plugins.load("policies", chosen["policy"]["name"]), plugins.options_of(chosen["policy"])
    parameters = policy.parameters(**options)
    folds = crossfit.assign_folds(validation.backbone, count)

    def calibrated(images: exits.Exits) -> np.ndarray:
        return policy.thresholds(images, parameters, chosen["correct"], **options)

    of_all = calibrated(validation)
    of_folds = np.stack([calibrated(validation.of(folds != fold)) for fold in range(count)])
    distinct, warnings = distinct_points(validation, of_all, getattr(policy, "REMEDY", ""))
    numbers, more = policy.diagnosis(validation, **options) if hasattr(policy, "diagnosis") else ({}, [])
    record = {
        "images": size,
        "classes": validation.classes,
        "branches": len(validation.predictions),
        "operating_points": len(of_all),
        "distinct_operating_points": distinct,
        **numbers,
        "warnings": warnings + more,
    }
    threshold_table.write(
        args.out, threshold_table.Thresholds(of_all, of_folds, threshold_table.parameters_as_json(parameters))
    )
    path = threshold_table.record_beside(args.out)
    write_json(path, record | {"fold_of_image": folds.tolist()})
    label = f"calibrate {path.name.removesuffix('.calibration.json')}"
    say(f"{label}: " + ", ".join(f"{name} {value}" for name, value in record.items() if name != "warnings"))
    for warning in record["warnings"]:
        warn(f"{label}: {warning}")


def distinct_points(validation: exits.Exits, of_all: np.ndarray, remedy: str) -> tuple[int, list[str]]:
    """Count the operating points, thresholds (P, K, C), that let validation images leave differently; warn if these are few."""
    points, images = len(of_all), len(validation.labels)
    distinct = len({taken.tobytes() for taken in cascade.leave(validation, of_all)})
    if distinct >= min(points, max(FEW, FEW_SHARE * points)):
        return distinct, []
    return distinct, [
        f"only {distinct} of {points} operating points differ on the {images} validation images: there is little to choose from; "
        + ", ".join(filter(None, ["hold out more validation images", remedy]))
    ]
