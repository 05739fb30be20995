"""What the records of calibrations say of a whole comparison, for its report: how good scores are, and what was promised."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from calex.system.files import read_json
from calex.workflow import plan

RECORD = "{folder}/{policy}.calibration.json"


def records(results: Path, config: dict[str, Any], dataset: str) -> list[tuple[plan.CascadeRun, str, dict[str, Any]]]:
    """Read the record of each cascade's calibration by each of its policies."""
    return [
        (cascade, policy, read_json(results / RECORD.format(folder=cascade.folder, policy=policy), "auroc"))
        for cascade in plan.cascades(config, dataset)
        for policy in config["methods"][cascade.method]["policies"]
    ]


def score_quality(found: list[tuple[plan.CascadeRun, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Average each score's AUROC at each branch over variants and seeds: backbone, method, score, auroc (K values or nulls)."""
    values: dict[tuple[str, str, str], list[list[float | None]]] = defaultdict(list)
    seen = set()
    for cascade, _, record in found:
        if cascade not in seen:  # the scores are the cascade's, whatever the policy
            for score, by_branch in record["auroc"].items():
                values[cascade.backbone, cascade.method, score].append(by_branch)
        seen.add(cascade)
    return [
        {"backbone": backbone, "method": method, "score": score, "auroc": [_mean(branch) for branch in zip(*each, strict=True)]}
        for (backbone, method, score), each in values.items()
    ]


def _mean(values: tuple[float | None, ...]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def promises(found: list[tuple[plan.CascadeRun, str, dict[str, Any]]], points: pl.DataFrame) -> list[dict[str, Any]]:
    """List what was certified, beside what test images say of it.

    One for each cascade, policy and bound: backbone, method, variant, seed, policy, bound, risk, confidence, images, passed,
    needed (images, where nothing passed), test_risk (where something did), test_flops_fraction, and kept: test_risk ≤ bound.
    """
    listed = []
    test = points.filter(split="test")
    alone = dict(test.filter(method="backbone").select("backbone", "accuracy").iter_rows())
    for cascade, policy, record in found:
        for point, certificate in enumerate(record.get("certificates", [])):
            key = {name: getattr(cascade, name) for name in ("backbone", "method", "variant", "seed")} | {"policy": policy}
            shown = {name: certificate[name] for name in ("bound", "risk", "confidence", "images", "passed")}
            entry = key | shown | {"needed": certificate.get("needed")}
            if certificate["passed"]:
                row = test.filter(**key, point=point).row(0, named=True)
                loss = alone[cascade.backbone] - row["accuracy"] if certificate["risk"] == "drop" else 1 - row["agreement"]
                entry |= {"test_risk": loss, "test_flops_fraction": row["flops_fraction"], "kept": loss <= certificate["bound"]}
            listed.append(entry)
    return listed
