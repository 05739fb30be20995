"""Gather everything that was evaluated on a dataset and mark each curve's front: points_{dataset}.parquet.

The front is decided on validation rows, variants pooled. A second file, run.json, holds what was run: config, seeds,
versions, hardware, fingerprints, the audit of the images, and every warning of the steps before.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from calex.comparison import pareto
from calex.simulation.exits import read_predictions
from calex.simulation.points import SCHEMA
from calex.steps import _calibrations, _description
from calex.system.files import read_json, read_parquet, write_json
from calex.system.progress import say
from calex.system.replacing import replacing
from calex.workflow import plan, settings_argument

LOWER = "the number of methods, variants or seeds of the dataset"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="the folder of all results, with what was evaluated in it")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help="JSON: the dataset's name and its resolved config, which says what to gather",
    )
    parser.add_argument("--command", help="the command line that makes the report, for the description of the run")
    parser.add_argument("--out", type=Path, required=True, help="the table to write (.parquet)")
    parser.add_argument("--run", type=Path, required=True, help="the description of the run to write (.json)")


def backbone_answers(exits: Path) -> tuple[float, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Read the plain backbone's FLOPs, and for val and test its answers and the labels, each (N,) int64.

    exits: the file of any branch; each holds the backbone's answers too.
    """
    splits = {split: read_predictions([exits], split) for split in ("val", "test")}
    return splits["val"].flops_backbone, {split: (each.backbone, each.labels) for split, each in splits.items()}


def backbone_rows(dataset: str, backbone: str, exits: Path, folder: Path) -> pl.DataFrame:
    """Make the plain backbone an operating point of its own: one row for val, one for test."""
    branches = len(read_json(folder / "taps.json", "taps")["taps"])
    flops, answers = backbone_answers(exits)
    rows = []
    for split, (answer, labels) in answers.items():
        right = answer == labels
        rows.append(
            {
                "dataset": dataset, "backbone": backbone, "method": "backbone", "variant": "default", "policy": "none",
                "seed": 0, "point": 0, "parameters": "{}", "split": split, "n": len(right), "accuracy": float(right.mean()),
                "agreement": 1.0, "flops": flops, "flops_fraction": 1.0, "flops_fraction_exit_only": 1.0,
                "exit_share": [0.0] * branches + [1.0],
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def run(args: argparse.Namespace) -> None:
    name, config = args.settings["name"], args.settings["config"]
    backbones = config["datasets"][name]["backbones"]
    one = {cascade.backbone: cascade for cascade in reversed(plan.cascades(config, name))}
    exits = {backbone: args.results / one[backbone].folder / "exits1.npz" for backbone in backbones}
    plain = [backbone_rows(name, backbone, exits[backbone], args.results / name / backbone) for backbone in backbones]
    swept = [read_parquet(args.results / path, SCHEMA) for path in plan.points(config, name)]
    points = pareto.mark_fronts(pl.concat([*plain, *swept]))
    with replacing(args.out) as partial:
        points.write_parquet(partial)
    balanced = {
        backbone: {split: _description.balanced_accuracy(*pair) for split, pair in backbone_answers(path)[1].items()}
        for backbone, path in exits.items()
    }
    folders = [args.results / name / backbone for backbone in backbones]
    cascades = [args.results / cascade.folder for cascade in plan.cascades(config, name)]
    warnings = _description.warnings(args.results, config, name)
    calibrations = _calibrations.records(args.results, config, name)
    write_json(
        args.run,
        _description.description(args.settings, folders, cascades, args.command, balanced)
        | {"warnings": warnings, "audit": _description.audit(args.results, name)}
        | {"scores": _calibrations.score_quality(calibrations), "promises": _calibrations.promises(calibrations, points)},
    )
    say(
        f"pareto {name}: {len(points)} rows, {points['on_front'].sum()} on a front; {len(warnings)} warnings of the steps before"
    )
