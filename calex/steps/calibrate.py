"""Turn exits into thresholds by a policy, on validation images only: {policy}.thresholds.parquet.

A record beside it, {policy}.calibration.json, says which fold each image is in, and whether these images were enough to
choose from: how many of the operating points are distinct, and what the policy itself knows.

What a policy learnt besides, for scores of its own, is in {policy}.learnt.npz.

Besides the thresholds from all of validation (fold −1, for test images) there is a set for each fold, made
without it: with these, validation images are judged by thresholds that never saw them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calex.errors import CalexError
from calex.simulation import ceiling, crossfit, exits, threshold_table
from calex.simulation.rule import Rule, calibrated
from calex.steps import _exits
from calex.system.files import write_json
from calex.system.progress import say, warn
from calex.workflow import settings_argument

# Operating points: fewer distinct ones than this share of them, or than this number, are few to choose from.
FEW_SHARE, FEW = 0.1, 5

NOT_SAID = ("warnings", "certificates")  # of the record, in the log's one line

LOWER = "the policy's `steps`, or evaluation.folds"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every branch, in order")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"policy": {"name": "cpm", …}, "score", "last", "correct", "folds"}',
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the thresholds to write (.parquet); the record goes beside them"
    )


def run(args: argparse.Namespace) -> None:
    chosen = settings_argument.with_policy(args.settings)
    policy, options = chosen.load_policy("policy")
    scorer, scorer_options = chosen.load_scorer()
    over = scorer is not policy
    validation = _exits.read(args.exits, "val", chosen)
    count, size = chosen["folds"], len(validation.labels)
    if not isinstance(count, int) or not 2 <= count <= size:
        raise CalexError(
            f"evaluation.folds: {count!r} folds of {size} validation images; set it to 2 or more, up to {size}, or hold out more"
        )
    parameters = policy.parameters(**options)
    folds = crossfit.assign_folds(validation.backbone, count)

    def path(images: exits.Exits) -> Rule:
        return calibrated(scorer, images, scorer.parameters(**scorer_options), chosen["correct"], scorer_options)

    def rule(images: exits.Exits) -> tuple[Rule, dict[str, Any], list[str]]:
        """A calibrated rule, with what the policy knows about it: numbers and warnings."""
        if over:
            return policy.choose(images, path, parameters, **options)
        numbers, warnings = policy.diagnosis(images, **options) if hasattr(policy, "diagnosis") else ({}, [])
        return calibrated(policy, images, parameters, chosen["correct"], options), numbers, warnings

    of_all, numbers, warnings = rule(validation)
    of_folds = [rule(validation.of(folds != fold))[0] for fold in range(count)]
    taken = of_all.leave(validation)
    distinct, few = (len(taken), []) if over else distinct_points(taken, getattr(policy, "REMEDY", ""))
    record = {
        "images": size,
        "classes": validation.classes,
        "branches": len(validation.predictions),
        "operating_points": len(taken),
        "distinct_operating_points": distinct,
        **numbers,
        "warnings": few + warnings,
    }
    threshold_table.write(args.out, threshold_table.Thresholds.of(of_all, of_folds, parameters))
    beside = threshold_table.record_beside(args.out)
    write_json(beside, record | {"auroc": score_quality(args.exits, validation, chosen), "fold_of_image": folds.tolist()})
    label = f"calibrate {beside.name.removesuffix('.calibration.json')}"
    say(f"{label}: " + ", ".join(f"{name} {value}" for name, value in record.items() if name not in NOT_SAID))
    for warning in record["warnings"]:
        warn(f"{label}: {warning}")


def distinct_points(taken: np.ndarray, remedy: str) -> tuple[int, list[str]]:
    """Count the operating points that let validation images leave differently, by (P, N) uint8 exits; warn if these are few."""
    points, images = taken.shape
    distinct = len({exits.tobytes() for exits in taken})
    if distinct >= min(points, max(FEW, FEW_SHARE * points)):
        return distinct, []
    return distinct, [
        f"only {distinct} of {points} operating points differ on the {images} validation images: there is little to choose from; "
        + ", ".join(filter(None, ["hold out more validation images", remedy]))
    ]


def score_quality(paths: Sequence[Path], validation: exits.Exits, chosen: dict[str, Any]) -> dict[str, list[float | None]]:
    """Measure how well each score that the branches have tells right from wrong answers: its AUROC at each branch, by name."""
    right = validation.predictions == validation.truth(chosen["correct"])
    return {
        name: [ceiling.auroc(*branch) for branch in zip(values, right, strict=True)]
        for name, values in exits.read_scores(paths, "val").items()
    }
