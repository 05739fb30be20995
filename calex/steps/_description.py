"""What was run, for people: hardware, versions, accuracies, the audit of the images, and what is probably wrong.

Read from the records beside the results, so that the same run gives the same description.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from calex import __version__
from calex.errors import CalexError
from calex.system.files import read_json
from calex.workflow import plan

# What of the audit of images goes into the description: all but the counts of each class.
AUDIT = ("images", "shape", "splits", "identical", "skipped")


def branch_records(cascades: Iterable[Path]) -> list[dict[str, Any]]:
    """On what each branch of some cascades was trained: device, threads, torch. Their folders may hold no branches."""
    records = []
    for folder in cascades:
        for file in sorted(folder.glob("branch*.safetensors")):
            try:
                with safe_open(file, framework="np") as weights:
                    records.append(json.loads((weights.metadata() or {}).get("made", "{}")))
            except (SafetensorError, ValueError) as error:
                raise CalexError(f"{file}: damaged ({error}); delete it and rerun train-branch") from None
    return records


def joined(values: Iterable[Any]) -> str | None:
    """Each value once, in order; None for none."""
    return ", ".join(sorted({str(value) for value in values if value is not None})) or None


def balanced_accuracy(answers: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean over classes of the share of a class's images that is answered right.

    answers, labels: (N,) int64. A class without images does not count.
    """
    return float(np.mean([(answers[labels == label] == label).mean() for label in np.unique(labels)]))


def warnings(results: Path, config: dict[str, Any], dataset: str) -> list[dict[str, Any]]:
    """Gather what steps found to be probably wrong: text, where (the first place that says it), count (of places).

    Read from the images' audit and the records of backbones, weights and calibrations.
    """
    backbones = config["datasets"][dataset]["backbones"]
    places = [(dataset, results / dataset / "images.json")]
    places += [(f"{dataset}, {backbone}", results / dataset / backbone / "backbone.json") for backbone in backbones]
    for cascade, what, file in plan.records(config, dataset):
        where = f"{cascade.backbone}, {cascade.method}, {cascade.variant}, seed {cascade.seed}, {what}"
        places.append((where, results / cascade.folder / file))
    entries: dict[str, dict[str, Any]] = {}
    for where, path in places:
        for text in read_json(path, "warnings")["warnings"]:
            entry = entries.setdefault(text, {"text": text, "where": where, "count": 0})
            entry["count"] += 1
    return list(entries.values())


def audit(results: Path, dataset: str) -> dict[str, Any]:
    """Read the audit of a dataset's images (see `calex.images.audit`), with the number of classes instead of their sizes."""
    record = read_json(results / dataset / "images.json", *AUDIT, "classes")
    return {name: record[name] for name in AUDIT} | {"classes": len(record["classes"])}


def description(
    chosen: dict[str, Any],
    folders: list[Path],
    cascades: Iterable[Path] = (),
    command: str | None = None,
    balanced: dict[str, dict[str, float]] | None = None,
) -> dict[str, Any]:
    """Describe what was run, with only values that the same run gives again.

    chosen: the dataset's name and its resolved config. folders: of the backbones. cascades: the folders of trained
    branches. command: what made the report. balanced: balanced accuracies by backbone and split.
    """
    branches = branch_records(cascades)
    backbones: dict[str, Any] = {}
    fingerprints: dict[str, str] = {}
    splits: dict[str, int] = {}
    versions: dict[str, str] = {}
    kinds = {each["device"]: each.get("device_type", "cpu") for each in branches if "device" in each}
    torches = {each["torch"] for each in branches if "torch" in each}
    threads: dict[str, set[int]] = {"train_branch": {each["threads"] for each in branches if "threads" in each}}
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
        kinds |= {record["device"]: record.get("device_type", "cpu") for record in (trained, cached)}
        torches |= {record["torch"] for record in (trained, cached["versions"]) if "torch" in record}
        for step, record in (("train_backbone", trained), ("cache_features", cached)):
            threads.setdefault(step, set()).update({record["threads"]} if "threads" in record else ())
        backbones[folder.name] = {
            "parameters": trained["parameters"],
            "flops": taps["flops"],
            "accuracy": trained["accuracy"],
            "balanced_accuracy": (balanced or {}).get(folder.name, {}),
            "trained_on": trained["trained_on"],
            "taps": [tap["name"] for tap in taps["taps"]],
            "device": trained["device"],
        }
    versions |= {name: importlib.metadata.version(name) for name in ("numpy", "polars", "altair", "scikit-learn")}
    gpus = {device for device, kind in kinds.items() if kind != "cpu"}
    return {
        "dataset": chosen["name"],
        "seeds": chosen["config"]["seeds"],
        "versions": versions | {"calex": __version__, "python": platform.python_version(), "torch": joined(torches)},
        "hardware": {"cpu": joined(set(kinds) - gpus), "gpu": joined(gpus)},
        "threads": {step: joined(counts) for step, counts in threads.items() if counts},
        "fingerprints": {"dataset": trained["dataset"], "backbones": fingerprints},
        "splits": splits,
        "backbones": backbones,
        "config": chosen["config"],
        "command": command or f"snakemake --cores all results/pareto_{chosen['name']}.html",
    }
