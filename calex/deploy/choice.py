"""Which of everything that was evaluated on a backbone is the one to deploy, decided on validation images."""

from __future__ import annotations

from typing import Any

import polars as pl

from calex.comparison import pareto
from calex.deploy.sweep import Wish
from calex.errors import CalexError


def best(points: pl.DataFrame, wish: Wish) -> dict[str, Any]:
    """Choose one operating point of all methods, variants and policies.

    Parameters
    ----------
    points : polars.DataFrame
        `points.SCHEMA`, of one backbone; the row of the plain backbone is among them.
    wish : Wish
        What it must cost at most, or answer right at least.

    Returns
    -------
    dict
        The chosen point's `val` row.

    Raises
    ------
    CalexError
        Where no point fits, with what there is.
    """
    val = pareto.deployable(points.filter(pl.col("split") == "val")).sort(*pareto.POINT)
    if val.is_empty():
        raise CalexError("nothing was evaluated that could be exported; see which methods, policies and seeds the table holds")
    accuracy, cost = val["accuracy"].to_numpy(), val["flops_fraction"].to_numpy()
    network = network_accuracy(points)["val"]
    place = wish.choose(accuracy, cost, network)
    if place is None:
        raise CalexError(
            f"no operating point has {wish}; the cheapest costs {cost.min():.3f} of the network and the most accurate answers "
            f"{accuracy.max():.3f} of the validation images right (the network {network:.3f}); ask for less in `deploy`"
        )
    return val.row(place, named=True)


def network_accuracy(points: pl.DataFrame) -> dict[str, float]:
    """{"val", "test"}: how accurate the plain backbone is."""
    plain = points.filter(pl.col("method") == "backbone")
    return {split: plain.filter(pl.col("split") == split)["accuracy"].item() for split in ("val", "test")}
