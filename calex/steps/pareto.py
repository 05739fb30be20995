"""Gather everything that was evaluated on a dataset and mark each curve's front: points_{dataset}.parquet.

The front is decided on validation rows, variants pooled. A second file, run.json, says what was run: config,
seeds, versions, hardware, fingerprints.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

import polars as pl

from calex import __version__, pareto, plan, settings
from calex.files import read_json, read_npz, read_parquet, replacing, write_json
from calex.points import SCHEMA
from calex.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, required=True, help="the folder of all results, with what was evaluated in it")
    parser.add_argument(
        "--settings",
        type=settings.parse,
        required=True,
        help="JSON: the dataset's name and its resolved config, which says what to gather",
    )
    parser.add_argument("--out", type=Path, required=True, help="the table to write (.parquet)")
    parser.add_argument("--run", type=Path, required=True, help="the description of the run to write (.json)")


def backbone_rows(dataset: str, backbone: str, exits: Path, folder: Path) -> pl.DataFrame:
    """The plain backbone as an operating point of its own: one row for val, one for test."""
    said, branches = read_npz(exits), len(read_json(folder / "taps.json")["taps"])
    flops = float(said["flops_backbone"])
    rows = []
    for split in ("val", "test"):
        right = said[f"{split}_backbone"][0] == said[f"{split}_label"]
        rows.append(
            {
                "dataset": dataset, "backbone": backbone, "method": "backbone", "variant": "default", "policy": "none",
                "seed": 0, "point": 0, "parameters": "{}", "split": split, "n": len(right), "accuracy": float(right.mean()),
                "agreement": 1.0, "flops": flops, "flops_fraction": 1.0, "flops_fraction_exit_only": 1.0,
                "exit_share": [0.0] * branches + [1.0],
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def description(chosen: dict[str, Any], folders: list[Path]) -> dict[str, Any]:
    """What was run, for people: only values that the same run gives again."""
    backbones: dict[str, Any] = {}
    fingerprints: dict[str, str] = {}
    splits: dict[str, int] = {}
    versions: dict[str, str] = {}
    gpus: set[str] = set()
    cpus: set[str] = set()
    for folder in folders:
        trained, taps = read_json(folder / "backbone.json"), read_json(folder / "taps.json")
        manifests = {split: read_json(folder / "features" / f"{split}.json") for split in ("train", "val", "test")}
        fingerprints[folder.name] = trained["fingerprint"]
        splits = {split: manifest["layout"]["images"] for split, manifest in manifests.items()}
        versions |= manifests["train"]["provenance"]["versions"]
        for device in (trained["device"], manifests["train"]["provenance"]["device"]):
            (gpus if "NVIDIA" in device or "AMD Instinct" in device else cpus).add(device)
        backbones[folder.name] = {
            "parameters": trained["parameters"],
            "flops": taps["flops"],
            "accuracy": trained["accuracy"],
            "trained_on": trained["trained_on"],
            "taps": [tap["name"] for tap in taps["taps"]],
            "device": trained["device"],
        }
    versions |= {name: importlib.metadata.version(name) for name in ("numpy", "polars", "altair", "scikit-learn")}
    return {
        "dataset": chosen["name"],
        "seeds": chosen["config"]["seeds"],
        "versions": versions | {"calex": __version__, "python": platform.python_version()},
        "hardware": {"cpu": ", ".join(sorted(cpus)) or None, "gpu": ", ".join(sorted(gpus)) or None},
        "fingerprints": {"dataset": read_json(folders[0] / "backbone.json")["dataset"], "backbones": fingerprints},
        "splits": splits,
        "backbones": backbones,
        "config": chosen["config"],
        "command": f"snakemake --cores all results/pareto_{chosen['name']}.html",
    }


def run(args: argparse.Namespace) -> None:
    name, config = args.settings["name"], args.settings["config"]
    backbones = {cascade.backbone: cascade for cascade in reversed(plan.cascades(config, name))}
    plain = [
        backbone_rows(name, backbone, args.results / backbones[backbone].folder / "exits1.npz", args.results / name / backbone)
        for backbone in config["datasets"][name]["backbones"]
    ]
    swept = [read_parquet(args.results / path) for path in plan.points(config, name)]
    points = pareto.mark_fronts(pl.concat([*plain, *swept]))
    with replacing(args.out) as partial:
        points.write_parquet(partial)
    folders = [args.results / name / backbone for backbone in config["datasets"][name]["backbones"]]
    write_json(args.run, description(args.settings, folders))
    say(f"pareto {name}: {len(points)} rows, {points['on_front'].sum()} on a front")
