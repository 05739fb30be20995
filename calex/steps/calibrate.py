"""Turn exits into thresholds by a policy, on validation images only: {policy}.thresholds.parquet.

Besides the thresholds from all of validation (fold −1, for test images) there is a set for each fold, made
without it: with these, validation images are judged by thresholds that never saw them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from calex import exits, plugins, settings
from calex.calibration import folds
from calex.errors import CalexError
from calex.files import canonical_json, replacing
from calex.points import THRESHOLDS
from calex.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every branch, in order")
    parser.add_argument(
        "--settings",
        type=settings.parse,
        required=True,
        help='JSON: {"policy": {"name": "cpm", …}, "score", "correct", "folds"}',
    )
    parser.add_argument("--out", type=Path, required=True, help="the thresholds to write (.parquet)")


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
    with replacing(args.out) as partial:
        frame.write_parquet(partial)
    say(f"calibrate {args.out.stem}: {len(swept)} operating points, {found.shape[2]} branches, {found.shape[3]} classes")
