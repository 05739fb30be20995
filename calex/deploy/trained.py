"""From the files of a run to the cascade that they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from calex import __version__, plugins
from calex.backbones import build, own
from calex.backbones.records import read_backbone_record, read_taps_record
from calex.backbones.weights import read_weights
from calex.branches.branch import built, head_for
from calex.comparison import pareto
from calex.deploy import pictures
from calex.deploy.cascade import Cascade
from calex.deploy.choice import network_accuracy
from calex.deploy.folder import assembled
from calex.deploy.sweep import CURVES, Sweep
from calex.errors import CalexError
from calex.simulation import exits, threshold_table
from calex.simulation.rule import charged
from calex.system.files import read_json
from calex.workflow import plan, reading


def cascade_of(results: Path, config: dict[str, Any], points: pl.DataFrame, chosen: dict[str, Any]) -> Cascade:
    """Put together a trained cascade.

    Parameters
    ----------
    results : Path
        The folder of all results.
    config : dict
        The resolved config of its dataset, as run.json holds it.
    points : polars.DataFrame
        `points.SCHEMA`, of its backbone.
    chosen : dict
        The row of the operating point that it is to work at.
    """
    run = plan.CascadeRun(*(chosen[name] for name in ("dataset", "backbone", "method", "variant", "seed")))
    backbone, folder = results / run.dataset / run.backbone, results / run.folder
    about, measured = read_backbone_record(backbone / "backbone.safetensors"), read_taps_record(backbone / "taps.json")
    manifest = read_json(backbone / "features" / "val.json", "layout.precision", "provenance.compute", "provenance.label_names")
    method = config["methods"][run.method]["variants"][run.variant]
    policy = config["policies"][chosen["policy"]]
    path = config["policies"].get(policy.get("path"), {})
    score = reading.score_of(method, policy, path)
    assert score is not None
    last = reading.last_of(policy, path)
    scorer = reading.without_reading(path or policy)  # whose scores meet the thresholds
    files = [folder / f"exits{k}.npz" for k in range(1, len(measured["taps"]) + 1)]
    validation = exits.read(files, "val", score)
    table = threshold_table.read(folder / f"{chosen['policy']}.thresholds.parquet", len(files), about["classes"])
    sweep = sweep_of(points, chosen, table, scorer)
    audit = read_json(results / run.dataset / "images.json", "shape")
    costs = charged(plugins.load("policies", scorer["name"]), validation, plugins.options_of(scorer)).costs
    record = {
        "network": {
            "name": about["network"], "stem": about["stem"],
            "sources": own.source_hashes(about["network"]) if own.is_own(about["network"]) else {},
        },
        "classes": manifest["provenance"]["label_names"],
        "channels": len(about["transform"]["mean"]),
        "transform": about["transform"],
        "picture": pictures.like(audit["shape"], config["datasets"][run.dataset]["source"], audit.get("whites", {})),
        "taps": [tap["name"] for tap in measured["taps"]],
        "shapes": [tap["shape"] for tap in measured["taps"]],
        "layouts": [tap.get("layout", {}) for tap in measured["taps"]],
        "pool": measured["pool"],
        "precision": manifest["layout"]["precision"],
        "compute": manifest["provenance"]["compute"],
        "method": {
            **{key: method[key] for key in ("recipe", "shared_core", "confidence")},
            "head": head_for(method["head"], measured["flops"], about["classes"]),
        },
        "score": score,
        "last": last,
        "costs": {"to_tap": list(costs.to_tap), "head": list(costs.head), "backbone": costs.backbone},
        "made": {
            **{name: chosen[name] for name in ("dataset", "backbone", "method", "variant", "policy", "seed")},
            "images": {split: len(exits.read_predictions(files[:1], split).labels) for split in ("val", "test")},
            "fingerprints": {"dataset": about["dataset"], "backbone": about["fingerprint"]},
            "versions": manifest["provenance"]["versions"] | {"calex": __version__},
        },
    }  # fmt: skip
    network = build.build(about["network"], about["stem"], about["classes"], about["transform"]["size"])
    read_weights(network, backbone / "backbone.safetensors")
    branches = built(record["method"], [tuple(shape) for shape in record["shapes"]], about["classes"], seed=0)
    for k, branch in enumerate(branches.branches, 1):
        _read_branch(branch, folder / f"branch{k}.safetensors")
    return assembled(network, branches, sweep, record, chosen["point"])


def sweep_of(
    points: pl.DataFrame, chosen: dict[str, Any], thresholds: threshold_table.Thresholds, policy: dict[str, Any]
) -> Sweep:
    """The sweep that a chosen point belongs to, with what each of its points was worth."""
    key = [name for name in pareto.POINT if name != "point"]
    curve = points.filter(*(pl.col(name) == chosen[name] for name in key)).sort("point")
    by_split = {split: curve.filter(pl.col("split") == split) for split in ("val", "test")}
    if any(rows["parameters"].to_list() != thresholds.parameters for rows in by_split.values()):
        raise CalexError("the table of points and the thresholds are of different sweeps; rerun evaluate and pareto")
    columns = {
        f"{split}_{column}": rows[column] for split, rows in by_split.items() for column in ("accuracy", "flops_fraction")
    }
    return Sweep(
        thresholds=thresholds.of_all,
        parameters=thresholds.parameters,
        curves={name: columns[name].to_numpy() for name in CURVES},
        exit_share=np.array(by_split["val"]["exit_share"].to_list()),
        network=network_accuracy(points),
        policy=policy,
        learnt=thresholds.rules()[0].learnt,
    )


def _read_branch(branch: nn.Module, path: Path) -> None:
    try:
        branch.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise CalexError(f"{path}: not the weights of this branch ({str(error).splitlines()[0]}); rerun train-branch") from None
