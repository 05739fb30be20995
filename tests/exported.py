"""Cascades put together from the files of a run, beside what evaluation computed from stored features."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calex import images
from calex.comparison import pareto
from calex.deploy.cascade import Cascade
from calex.deploy.trained import cascade_of
from calex.features.store import open_store
from calex.simulation import cascade, exits
from calex.simulation.points import MARKED
from calex.system.files import read_json, read_npz, read_parquet

Curve = tuple[dict[str, Any], Cascade, np.ndarray, np.ndarray, np.ndarray, exits.Exits]

NEAR = 1e-3  # a score so near a threshold may fall on its other side where the order of a sum differs


def curves(results: Path, dataset: str) -> Iterator[Curve]:
    """Every curve of a finished run, of the first seed.

    Gives its key, its cascade, the test images in stored order (N, H, W, C) uint8, the exits that evaluation let them take
    and the classes answered, (P, N) each, and what every branch says.
    """
    config = read_json(results / dataset / "run.json")["config"]
    points = read_parquet(results / f"points_{dataset}.parquet", MARKED)
    yield from curves_of(results, dataset, config, points, config["seeds"][0])


def curves_of(results: Path, dataset: str, config: dict[str, Any], points: pl.DataFrame, first_seed: int) -> Iterator[Curve]:
    """The same from a config and a table of points."""
    whole = images.load(results / dataset / "images.npz")
    of_seed = pareto.deployable(points).filter(seed=first_seed, split="test")
    for (backbone,), rows in of_seed.partition_by("backbone", as_dict=True, maintain_order=True).items():
        store = open_store(results / dataset / str(backbone) / "features", "test")
        for curve in rows.partition_by("method", "variant", "policy", maintain_order=True):
            chosen = curve.sort("point").row(0, named=True)
            made = cascade_of(results, config, points.filter(pl.col("backbone") == backbone), chosen)
            folder = results / dataset / str(backbone) / chosen["method"] / chosen["variant"] / f"seed{chosen['seed']}"
            taken = read_npz(folder / f"{chosen['policy']}.exits.npz")["exit"]
            said = exits.read(
                [folder / f"exits{k}.npz" for k in range(1, len(made.stages))],
                "test",
                made.about["score"],
                last=made.about["last"],
            )
            yield chosen, made, whole.images[store.index], taken, cascade.predict(said, taken), said


def compare(
    made: Cascade, pixels: np.ndarray, taken: np.ndarray, answered: np.ndarray, said: exits.Exits, points: int = 3
) -> int:
    """Have a cascade answer at operating points at which the most exits are taken; how many of its answers differ.

    An image that left elsewhere must have a score that is near a threshold.
    """
    variety = [-len(np.unique(row)) for row in taken]
    differing = 0
    for made.point in np.argsort(variety, kind="stable")[:points].tolist():
        answers = made.classify(pixels)
        exit, prediction = answers.exit.numpy(), answers.prediction.numpy()
        other = exit != taken[made.point]
        differing += int((other | (prediction != answered[made.point])).sum())
        thresholds = made.sweep.thresholds[made.point]
        for image in np.flatnonzero(other):
            k = min(exit[image], taken[made.point][image])
            assert abs(said.scores[k, image] - thresholds[k, said.predictions[k, image]]) < NEAR
    return differing
