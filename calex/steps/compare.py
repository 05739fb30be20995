"""Compare every curve with each of ours on the same test images: {dataset}/paired.parquet, differences with 95 % intervals.

At each budget both curves are deployed at the point that validation images choose. Where a curve has no point for
some seed there is no value.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calex.comparison import paired, pareto
from calex.errors import CalexError
from calex.simulation.exits import read_predictions
from calex.simulation.points import MARKED
from calex.system.files import read_npz, read_parquet
from calex.system.progress import say
from calex.system.replacing import replacing
from calex.workflow import plan, settings_argument

LOWER = "the number of methods, variants or seeds of the dataset"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="the folder of all results, with the exits in it")
    parser.add_argument("--points", type=Path, required=True, help="every operating point, as `pareto` writes it (.parquet)")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"ours": [{"method", "policy"}, …], "budgets": [0.7, …]}: the curves to compare with, and at which shares of '
        "the backbone's FLOPs",
    )
    parser.add_argument("--out", type=Path, required=True, help="the table to write (.parquet)")


class CorrectAnswers:
    """Which test images a deployed point answers correctly, read from the files of its cascade."""

    def __init__(self, results: Path, branches: dict[str, int]) -> None:
        """results: the folder of all results. branches: how many each backbone has."""
        self.results, self.branches = results, branches
        self.of_branches = cache(self._of_branches)
        self.labels: dict[str, np.ndarray] = {}

    def _of_branches(self, cascade: plan.CascadeRun) -> np.ndarray:
        """(K, N) bool: whether each branch answers each test image correctly."""
        folder = self.results / cascade.folder
        paths = [folder / f"exits{k}.npz" for k in range(1, self.branches[cascade.backbone] + 1)]
        exits = read_predictions(paths, "test")
        labels = self.labels.setdefault(cascade.backbone, exits.labels)
        if not np.array_equal(labels, exits.labels):
            raise CalexError(f"{paths[0]}: holds other test images than those of other cascades; rerun train-branch")
        return exits.predictions == labels

    def of(self, point: dict[str, Any]) -> np.ndarray:
        """(N,) bool for a row of `pareto.at_budgets`."""
        cascade = plan.CascadeRun(*(point[name] for name in ("dataset", "backbone", "method", "variant", "seed")))
        branches = self.of_branches(cascade)
        images = branches.shape[1]
        path = self.results / cascade.folder / f"{point['policy']}.exits.npz"
        taken, last = read_npz(path, ("exit", "last")).values()
        if taken.shape[1] != images or last.shape != (images,) or point["point"] >= len(taken):
            raise CalexError(f"{path}: exits of {taken.shape[1]} images where {images} are known; rerun evaluate")
        correct = np.vstack([branches, last == self.labels[cascade.backbone]])
        chosen = correct[taken[point["point"]], np.arange(images)]
        if abs(chosen.mean() - point["test_accuracy"]) > 1e-9:
            raise CalexError(f"{path}: point {point['point']} is not as accurate as the table of points says; rerun evaluate")
        return chosen


def table(points: pl.DataFrame, ours: list[dict[str, str]], budgets: Sequence[float], correct: CorrectAnswers) -> pl.DataFrame:
    """One row for each backbone, budget, curve of ours and curve other than that: `paired.SCHEMA`, without `n`."""
    rows = []
    for (backbone, budget), chosen in pareto.at_budgets(pareto.deployable(points), budgets).group_by("backbone", "budget"):
        curves = {
            curve: {row["seed"]: row for row in by_seed.iter_rows(named=True)}
            for curve, by_seed in chosen.group_by("method", "policy")
        }
        for (place, one), ((method, policy), theirs) in product(enumerate(ours), curves.items()):
            if (own := curves.get((one["method"], one["policy"]))) is None:
                raise CalexError(
                    f"--settings: ours: no points of {one['method']} · {one['policy']} with {backbone}; evaluate it"
                )
            if theirs is own:
                continue
            seeds = sorted(set(own) | set(theirs))
            both = [seed for seed in seeds if all(seed in c and c[seed]["point"] is not None for c in (own, theirs))]
            row: dict[str, Any] = {
                "dataset": chosen["dataset"][0], "backbone": backbone, "budget": budget, "method": method, "policy": policy,
                "ours": place, "ours_method": one["method"], "ours_policy": one["policy"], "seeds": len(both), "of": len(seeds),
            }  # fmt: skip
            if both == seeds:
                answers = [np.stack([correct.of(curve[seed]) for seed in both]) for curve in (theirs, own)]
                difference = paired.difference(*answers)
                row |= {"accuracy": answers[0].mean(), "ours_accuracy": answers[1].mean(), "difference": difference.mean}
                row |= {"low": difference.low, "high": difference.high}
            rows.append(row)
    order = ["backbone", "ours", "method", "policy", "budget"]
    return pl.DataFrame(rows, schema=paired.SCHEMA).sort(order, descending=[False, False, False, False, True])


def run(args: argparse.Namespace) -> None:
    points = read_parquet(args.points, MARKED)
    branches = {backbone: len(shares[0]) - 1 for backbone, shares in points.group_by("backbone").agg("exit_share").iter_rows()}
    images = dict(points.filter(pl.col("split") == "test").group_by("backbone").agg(pl.col("n").max()).iter_rows())
    compared = table(
        points, args.settings["ours"], args.settings.get("budgets", pareto.BUDGETS), CorrectAnswers(args.results, branches)
    )
    compared = compared.with_columns(n=pl.col("backbone").replace_strict(images, return_dtype=pl.Int64))
    with replacing(args.out) as partial:
        compared.write_parquet(partial)
    decided = compared.filter((pl.col("low") > 0) | (pl.col("high") < 0))
    missing = compared["difference"].null_count()
    names = " and ".join(f"{one['method']} · {one['policy']}" for one in args.settings["ours"])
    say(f"compare {names}: {len(compared)} comparisons, {len(decided)} intervals without 0, {missing} without a value")
