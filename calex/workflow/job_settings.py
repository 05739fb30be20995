"""What the workflow's jobs depend on: which keys of the config, and what else a rule must know of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from calex import recipes
from calex.errors import CalexError, suggestion
from calex.workflow import plan, slurm
from calex.workflow.reading import last_of, score_of, without_reading

# {rule: {block of the config: the keys of it that the rule's result depends on}}. A change of a key reruns the rules that list it.
DEPENDS_ON: dict[str, dict[str, tuple[str, ...]]] = {
    "prepare_dataset": {"dataset": ("source",)},
    "measure_taps": {
        "backbone": ("network", "stem", "weights", "crop", "resize", "taps", "pool", "layout", "class_token"),
        "dataset": ("input_size",),
    },
    "train_backbone": {
        "backbone": (
            "network",
            "stem",
            "weights",
            "crop",
            "resize",
            "fit",
            "interpolation",
            "normalisation",
            "seed",
            "trained_on",
        ),
        "dataset": ("input_size", "augment", "training", "head_holdout"),
        "given": ("checkpoint_key", "expected_accuracy", "head", "last_layer"),
    },
    "cache_features": {"dataset": ("views",), "features": ("precision", "codec", "compute", "batch_size", "order_seed")},
    "train_branch": {
        "method": ("recipe", "head", "target", "shared_core", "confidence", "correct"),
        "features": ("memory_mb",),
        "exits": ("train_log_softmax",),
    },
    "train_branches": {
        "method": ("recipe", "head", "target", "shared_core"),
        "features": ("memory_mb",),
        "exits": ("train_log_softmax",),
    },
    "weigh_survivors": {"method": ("weighting", "score", "correct")},
    "calibrate": {
        "policy": ("policy",),
        "path": ("path",),
        "reading": ("score", "last"),
        "method": ("correct",),
        "evaluation": ("folds",),
    },
    "evaluate": {"policy": ("policy",), "path": ("path",), "reading": ("score", "last"), "method": ("correct",)},
    "benchmark": {"benchmarks": ("benchmark", "repeats", "scale")},
}


def settings(rule: str, config: dict[str, Any], wildcards: Mapping[str, str]) -> dict[str, Any]:
    """The part of a validated config that one job's result depends on, and nothing else.

    Parameters
    ----------
    rule
        Name of a rule in `workflow/rules`; one that no row of `DEPENDS_ON` has depends on no key.
    config
        As `config.validated` returns it.
    wildcards
        The job's: dataset, backbone, method, …, as far as its rule has them.
    """
    blocks = _blocks(config, wildcards)
    rows = DEPENDS_ON.get(rule, {}).items()
    return {key: value[key] for block, keys in rows if (value := blocks[block]) is not None for key in keys}


def _blocks(config: dict[str, Any], wildcards: Mapping[str, str]) -> dict[str, dict[str, Any] | None]:
    """The entries that a job's wildcards name, and the blocks that hold for all jobs; None for one that there is not."""
    backbone = config["backbones"].get(wildcards.get("backbone"), {})
    method = config["methods"].get(wildcards.get("method"), {}).get("variants", {}).get(wildcards.get("variant"), {})
    policy = config["policies"].get(wildcards.get("policy"), {})
    # The policy over whose operating points this one decides.
    path = config["policies"].get(policy.get("path"), {})
    return {
        "dataset": config["datasets"].get(wildcards.get("dataset"), {}),
        "backbone": backbone,
        "given": backbone if backbone.get("checkpoint") or backbone.get("weights") else None,
        "method": method,
        "policy": {"policy": without_reading(policy)} if policy else None,
        "path": {"path": without_reading(path)} if path else None,
        "reading": {"score": score_of(method, policy, path), "last": last_of(policy, path)},
        "features": config["features"],
        "exits": config["exits"],
        "evaluation": config["evaluation"],
        "benchmarks": config["benchmarks"] | {"benchmark": {"name": wildcards.get("question")}},
    }


def methods_that_train(config: dict[str, Any], joint: bool) -> str:
    """A pattern for the methods whose recipe trains all branches at once, or for the others; there may be none."""
    names = [
        name
        for name, method in config["methods"].items()
        if any(recipes.joint(variant["recipe"]["name"]) == joint for variant in method["variants"].values())
    ]
    return "|".join(names) or "(?!)"


def resolved(config: dict[str, Any], dataset: str) -> dict[str, Any]:
    """What a dataset's report says was run: its own part of the config."""
    entry = config["datasets"][dataset]
    policies = {policy for method in entry["methods"] for policy in config["methods"][method]["policies"]}
    policies |= {path for policy in policies if (path := config["policies"][policy].get("path"))}
    return {
        "name": dataset,
        "config": {
            "seeds": config["seeds"],
            # What is exported of it is no part of what is compared.
            "datasets": {dataset: {key: value for key, value in entry.items() if key not in ("deploy", "latency")}},
            "backbones": {name: config["backbones"][name] for name in entry["backbones"]},
            "features": config["features"],
            "exits": config["exits"],
            "methods": {name: config["methods"][name] for name in entry["methods"]},
            "policies": {name: config["policies"][name] for name in sorted(policies)},
            "evaluation": config["evaluation"],
        },
    }


def branch_exits(config: dict[str, Any], dataset: str) -> list[str]:
    """What the branches of a dataset's methods answer, below the folder of all results; a CalexError for an unknown dataset."""
    if dataset not in config["datasets"]:
        raise CalexError(f"results/heads_{dataset}.html: unknown dataset, {suggestion(dataset, config['datasets'])}")
    return plan.branch_exits(config, dataset)


def points_table(config: dict[str, Any], dataset: str) -> str:
    """A dataset's table of operating points; a CalexError for one that the config does not have."""
    if dataset not in config["datasets"]:
        raise CalexError(f"results/pareto_{dataset}.html: unknown dataset, {suggestion(dataset, config['datasets'])}")
    return f"results/points_{dataset}.parquet"


def wants_gpu(device: str, remote: bool) -> bool:
    """Whether jobs ask for a GPU: the config's `device` names one, or is auto and there is one.

    `remote` says that a cluster runs the jobs, which may have GPUs where this machine has none.
    """
    if device == "auto":
        return shutil.which("nvidia-smi") is not None or (remote and slurm.has_gpus())
    return device.startswith(("cuda", "mps"))
