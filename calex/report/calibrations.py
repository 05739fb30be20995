"""Two tables of the report: what is left to gain by better exit rules, and what was promised and kept."""

from __future__ import annotations

from typing import Any

import polars as pl

from calex.comparison.pareto import area, deployable


def score_table(rows: list[dict[str, Any]], points: pl.DataFrame) -> dict[str, Any]:
    """Arrange one backbone's AUROCs (`run.json`, `scores`) by method: `scores`, their names, and `methods`.

    A method: its name, its `room` (see `rooms`), and for each score the values at its branches, None for a score that it lacks;
    `best` is the score with the best mean.
    """
    left = rooms(points)
    names = list(dict.fromkeys(row["score"] for row in rows))
    by_place = {(row["method"], row["score"]): row["auroc"] for row in rows}
    methods = []
    for method in dict.fromkeys(row["method"] for row in rows):
        means = {name: _mean(by_place[method, name]) for name in names if (method, name) in by_place}
        cells = [{"by_branch": by_place.get((method, name)), "best": means.get(name) == max(means.values())} for name in names]
        methods.append({"method": method, "cells": cells, "room": left.get(method)})
    return {"scores": names, "methods": methods}


def rooms(points: pl.DataFrame) -> dict[str, float]:
    """By how much the clairvoyant's area exceeds that of each method's best policy, mean over seeds; of whole areas only."""

    def whole_areas(of: pl.DataFrame) -> pl.DataFrame:
        by_curve = area(of).group_by("method", "policy").agg(pl.col("area").mean(), pl.col("covered").min())
        return by_curve.filter(pl.col("covered") == 1).group_by("method").agg(pl.col("area").max())

    bound = points.filter(pl.col("policy") == "clairvoyant")
    if not len(bound):
        return {}
    both = whole_areas(bound).join(whole_areas(deployable(points)), on="method", suffix="_of_policy")
    return dict(both.select("method", pl.col("area") - pl.col("area_of_policy")).iter_rows())


def _mean(values: list[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def promise_rows(promises: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Gather one backbone's promises (`run.json`, `promises`) over seeds and variants: a row a method, policy and bound.

    A row: method, policy, bound, risk, confidence, images (that tested); of (cascades), certified (how many of them); of these
    `kept` on test images, and the mean of test_risk and test_flops_fraction, None where none is; needed, the fewest images that
    would do for one that is not, None where no number is known.
    """
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for promise in promises:
        key = tuple(promise[name] for name in ("method", "policy", "risk", "confidence", "bound"))
        groups.setdefault(key, []).append(promise)
    rows = []
    for (method, policy, risk, confidence, bound), each in groups.items():
        passed = [promise for promise in each if promise["passed"]]
        needed = [promise["needed"] for promise in each if not promise["passed"] and promise["needed"] is not None]
        rows.append(
            {
                "method": method, "policy": policy, "risk": risk, "confidence": confidence, "bound": bound,
                "images": each[0]["images"], "of": len(each), "certified": len(passed),
                "kept": sum(promise["kept"] for promise in passed),
                "test_risk": sum(promise["test_risk"] for promise in passed) / len(passed) if passed else None,
                "test_flops_fraction": sum(promise["test_flops_fraction"] for promise in passed) / len(passed) if passed else None,
                "needed": min(needed, default=None),
            }
        )  # fmt: skip
    return rows
