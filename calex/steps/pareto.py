"""Gather everything that was evaluated on a dataset and mark each curve's front: points_{dataset}.parquet.

The front is decided on validation rows, variants pooled. A second file, run.json, says what was run: config,
seeds, versions, hardware, fingerprints.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import polars as pl
from safetensors import SafetensorError, safe_open

from calex import __version__, pareto, plan, settings
from calex.errors import CalexError
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
    parser.add_argument("--command", help="the command line that makes the report, for the description of the run")
    parser.add_argument("--out", type=Path, required=True, help="the table to write (.parquet)")
    parser.add_argument("--run", type=Path, required=True, help="the description of the run to write (.json)")


def backbone_rows(dataset: str, backbone: str, exits: Path, folder: Path) -> pl.DataFrame:
    """The plain backbone as an operating point of its own: one row for val, one for test."""
    answers = {split: (f"{split}_backbone", f"{split}_label") for split in ("val", "test")}
    said = read_npz(exits, ["flops_backbone", *answers["val"], *answers["test"]])
    for answer, label in answers.values():
        if said[answer].ndim != 2 or said[answer].shape[1:] != said[label].shape or not said[answer].size:
            raise CalexError(f"{exits}: '{answer}' and '{label}' are not of the same images; rerun train-branch")
    branches = len(read_json(folder / "taps.json", "taps")["taps"])
    flops = float(said["flops_backbone"])
    rows = []
    for split, (answer, label) in answers.items():
        right = said[answer][0] == said[label]
        rows.append(
            {
                "dataset": dataset, "backbone": backbone, "method": "backbone", "variant": "default", "policy": "none",
                "seed": 0, "point": 0, "parameters": "{}", "split": split, "n": len(right), "accuracy": float(right.mean()),
                "agreement": 1.0, "flops": flops, "flops_fraction": 1.0, "flops_fraction_exit_only": 1.0,
                "exit_share": [0.0] * branches + [1.0],
            }
        )  # fmt: skip
    return pl.DataFrame(rows, schema=SCHEMA)


def training_of(cascades: Iterable[Path]) -> list[dict[str, Any]]:
    """On what each branch of some cascades was trained: device, threads, torch. Their folders may hold no branches."""
    made = []
    for folder in cascades:
        for file in sorted(folder.glob("branch*.safetensors")):
            try:
                with safe_open(file, framework="np") as weights:
                    made.append(json.loads((weights.metadata() or {}).get("made", "{}")))
            except (SafetensorError, ValueError) as error:
                raise CalexError(f"{file}: damaged ({error}); delete it and rerun train-branch") from None
    return made


def several(values: Iterable[Any]) -> str | None:
    """Each value once, in order; None for none."""
    return ", ".join(sorted({str(value) for value in values if value is not None})) or None


def description(
    chosen: dict[str, Any], folders: list[Path], cascades: Iterable[Path] = (), command: str | None = None
) -> dict[str, Any]:
    """What was run, for people: only values that the same run gives again.

    folders: of the backbones. cascades: the folders of trained branches. command: what made the report.
    """
    made = training_of(cascades)
    backbones: dict[str, Any] = {}
    fingerprints: dict[str, str] = {}
    splits: dict[str, int] = {}
    versions: dict[str, str] = {}
    kinds = {each["device"]: each.get("device_type", "cpu") for each in made if "device" in each}
    torches = {each["torch"] for each in made if "torch" in each}
    threads: dict[str, set[int]] = {"train_branch": {each["threads"] for each in made if "threads" in each}}
    for folder in folders:
        trained = read_json(
            folder / "backbone.json", "fingerprint", "device", "parameters", "accuracy", "trained_on", "dataset"
        )
        taps = read_json(folder / "taps.json", "flops", "taps")
        manifests = {
            split: read_json(folder / "features" / f"{split}.json", "layout.images", "provenance.versions", "provenance.device")
            for split in ("train", "val", "test")
        }
        cached = manifests["train"]["provenance"]
        fingerprints[folder.name] = trained["fingerprint"]
        splits = {split: manifest["layout"]["images"] for split, manifest in manifests.items()}
        versions |= cached["versions"]
        kinds |= {said["device"]: said.get("device_type", "cpu") for said in (trained, cached)}
        torches |= {said["torch"] for said in (trained, cached["versions"]) if "torch" in said}
        for step, said in (("train_backbone", trained), ("cache_features", cached)):
            threads.setdefault(step, set()).update({said["threads"]} if "threads" in said else ())
        backbones[folder.name] = {
            "parameters": trained["parameters"],
            "flops": taps["flops"],
            "accuracy": trained["accuracy"],
            "trained_on": trained["trained_on"],
            "taps": [tap["name"] for tap in taps["taps"]],
            "device": trained["device"],
        }
    versions |= {name: importlib.metadata.version(name) for name in ("numpy", "polars", "altair", "scikit-learn")}
    gpus = {device for device, kind in kinds.items() if kind != "cpu"}
    return {
        "dataset": chosen["name"],
        "seeds": chosen["config"]["seeds"],
        "versions": versions | {"calex": __version__, "python": platform.python_version(), "torch": several(torches)},
        "hardware": {"cpu": several(set(kinds) - gpus), "gpu": several(gpus)},
        "threads": {step: several(counts) for step, counts in threads.items() if counts},
        "fingerprints": {"dataset": trained["dataset"], "backbones": fingerprints},
        "splits": splits,
        "backbones": backbones,
        "config": chosen["config"],
        "command": command or f"snakemake --cores all results/pareto_{chosen['name']}.html",
    }


def run(args: argparse.Namespace) -> None:
    name, config = args.settings["name"], args.settings["config"]
    backbones = {cascade.backbone: cascade for cascade in reversed(plan.cascades(config, name))}
    plain = [
        backbone_rows(name, backbone, args.results / backbones[backbone].folder / "exits1.npz", args.results / name / backbone)
        for backbone in config["datasets"][name]["backbones"]
    ]
    swept = [read_parquet(args.results / path, SCHEMA) for path in plan.points(config, name)]
    points = pareto.mark_fronts(pl.concat([*plain, *swept]))
    with replacing(args.out) as partial:
        points.write_parquet(partial)
    folders = [args.results / name / backbone for backbone in config["datasets"][name]["backbones"]]
    cascades = [args.results / cascade.folder for cascade in plan.cascades(config, name)]
    write_json(args.run, description(args.settings, folders, cascades, args.command))
    say(f"pareto {name}: {len(points)} rows, {points['on_front'].sum()} on a front")
