"""Compare the heads of a dataset's methods by what each branch answers alone: heads_{dataset}.md, .csv and .html.

A method names a head; branches answer every image, nobody leaves. A head's cost is its share of the backbone's FLOPs, its
classifier included. The best head within a cost is chosen on validation images; its test accuracy stands beside it.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calex.comparison import paired
from calex.report import heads_page
from calex.simulation import exits
from calex.system.progress import say
from calex.workflow import plan, settings_argument

LOWER = "the number of methods, variants or seeds of the dataset"  # where there is not enough memory

COSTS = (0.0025, 0.005, 0.01, 0.02, 0.05)  # shares of the backbone's FLOPs
SCHEMA = {
    "backbone": pl.String,
    "branch": pl.Int64,
    "depth": pl.Float64,
    "method": pl.String,
    "variant": pl.String,
    "cost": pl.Float64,
    "seeds": pl.Int64,
    "val_accuracy": pl.Float64,
    "test_accuracy": pl.Float64,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="the folder of all results, with the exits in it")
    parser.add_argument(
        "--settings", type=settings_argument.parse, required=True,
        help="JSON: the dataset's name and its resolved config, which says what to gather",
    )  # fmt: skip
    parser.add_argument(
        "--available", action="store_true", help="leave out branches that are not trained yet, instead of refusing: a look at a study that runs"
    )  # fmt: skip
    parser.add_argument("--command", default="", help="what makes the table again, for the table itself")
    parser.add_argument("--out", type=Path, required=True, help="the page to write (.html); .md and .csv go beside it")


def run(args: argparse.Namespace) -> None:
    config, dataset = args.settings["config"], args.settings["name"]
    correct: dict[tuple[Any, ...], np.ndarray] = {}
    rows = []
    wanted = plan.branch_exits(config, dataset)
    there = {file for file in wanted if not args.available or (args.results / file).is_file()}
    for key, measured in measure(config, dataset, args.results, there):
        costs, depths, val, test = (np.stack(part) for part in zip(*measured, strict=True))
        correct[key] = test
        rows.append((*key[:2], depths[0], *key[2:], costs[0], len(measured), val.mean(), test.mean()))
    table = pl.DataFrame(rows, schema=SCHEMA, orient="row").sort("backbone", "branch", "cost", "method", "variant")
    best = pl.DataFrame([winner | runners_up(winner, table, correct) for winner in winners(table)])
    missing = f"{len(wanted) - len(there)} of {len(wanted)} branches are not trained yet." if len(there) < len(wanted) else ""
    heads_page.write(args.out, dataset, table, best, args.command, missing)
    say(f"heads of {dataset}: {len(table)} branches of {table.select('method', 'variant').n_unique()} heads")


def measure(
    config: dict[str, Any], dataset: str, results: Path, there: Collection[str]
) -> Iterator[tuple[tuple[Any, ...], list[tuple[Any, ...]]]]:
    """Yield each branch of each head, (backbone, k, method, variant), with a record of each seed.

    there: the files to read, below the folder of all results. A record is the head's cost, the depth of its tap (both shares of
    the backbone's FLOPs), the accuracy on validation images, and (N,) bool: whether it answers each test image correctly.
    """
    found: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}
    for cascade in plan.cascades(config, dataset):
        for k in plan.branch_numbers(config, cascade.backbone):
            file = f"{cascade.folder}/exits{k}.npz"
            if file not in there:
                continue
            path = results / file
            val, test = (exits.read([path], split, "max_softmax") for split in ("val", "test"))
            costs = val.costs
            record = (
                costs.head[0] / costs.backbone, costs.to_tap[0] / costs.backbone,
                (val.predictions[0] == val.labels).mean(), test.predictions[0] == test.labels,
            )  # fmt: skip
            found.setdefault((cascade.backbone, k, cascade.method, cascade.variant), []).append(record)
    yield from found.items()


def winners(table: pl.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield the best head of each branch within each cost, chosen on validation images; of equals the cheapest."""
    for (_, _), heads in table.group_by("backbone", "branch", maintain_order=True):
        for cost in COSTS:
            within = heads.filter(pl.col("cost") <= cost).sort("val_accuracy", "cost", descending=[True, False])
            if len(within):
                yield {"within": cost, **within.row(0, named=True)}


def runners_up(winner: dict[str, Any], table: pl.DataFrame, correct: dict[tuple[Any, ...], np.ndarray]) -> dict[str, Any]:
    """Name the methods that have a head within the winner's cost whose test accuracy its 95 % interval does not tell apart."""
    within = table.filter(
        (pl.col("backbone") == winner["backbone"])
        & (pl.col("branch") == winner["branch"])
        & (pl.col("cost") <= winner["within"])
    )
    key = ("backbone", "branch", "method", "variant")
    own = correct[tuple(winner[name] for name in key)]
    level = set()
    for row in within.iter_rows(named=True):
        theirs = correct[tuple(row[name] for name in key)]
        seeds = min(len(theirs), len(own))  # of a study that runs, one may have fewer
        if row["method"] != winner["method"] and paired.difference(theirs[:seeds], own[:seeds]).high >= 0:
            level.add(row["method"])
    return {"level": ", ".join(sorted(level))}
