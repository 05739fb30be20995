# Everything that rules share: the checked config, each rule's own block of it, the sources its step reads.

import math
import os
import shlex
import shutil
import sys
from pathlib import Path

from calex import datasets, plan, plugins, recipes, slurm, sources
from calex.config import merged, read_layers, read_yaml, validated
from calex.errors import CalexError, suggestion
from calex.files import canonical_json

SPLITS = ("train", "val", "test")
HERE = Path(workflow.basedir)

CONFIG = "config/config.yaml"


def refuse(error):
    """Stop with one line, without the frames that an exception inside a Snakefile would print around it."""
    print(f"calex: error: {error}", file=sys.stderr, flush=True)
    os._exit(2)


GIVEN = [
    os.path.relpath(file) if Path(file).is_relative_to(Path.cwd()) else str(file) for file in workflow.overwrite_configfiles
]
# Jobs that another process runs get the same config files, but not this option: the environment tells them.
ALONE = getattr(workflow.config_settings, "replace_workflow_config", False) or "CALEX_CONFIG_ALONE" in os.environ
if ALONE:
    os.environ["CALEX_CONFIG_ALONE"] = "1"
BASE = [CONFIG] if Path(CONFIG).exists() and not ALONE else []

try:
    LAYERS = read_layers([*BASE, *GIVEN])  # Snakemake's own complaint about a damaged file names neither file nor line
except CalexError as error:
    refuse(error)


configfile: CONFIG


try:
    # Snakemake has merged the files already, but so that a head of another name would keep the options of the one below.
    config = validated(
        merged([*LAYERS, workflow.config_settings.config]),
        read_yaml(HERE / "schemas" / "config.schema.yaml"),
        " + ".join(
            [*BASE, *map(str, workflow.overwrite_configfiles), *(["--config"] if workflow.config_settings.config else [])]
        ),
    )
except CalexError as error:
    refuse(error)

# `python` in a job is the one that runs this, also where its environment was not activated.
if shutil.which("python") != sys.executable:
    os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")

# All that this run may use, where the command line gives a number: an executor's profile, --unlock and others give none.
EVERY_CORE = workflow.resource_settings.cores


# Shell commands name what no result depends on (device, threads, AS_TYPED) as it stands in these variables, not in params:
# another device is no reason to compute again. Nor in resources: jobs of one group must agree in resources that are text.
def gpus(wildcards):
    """A job asks for a GPU if the config names one, or says auto and there is one: here, or in the cluster that runs the jobs."""
    if config["device"] == "auto":
        return int(shutil.which("nvidia-smi") is not None or (workflow.non_local_exec and slurm.has_gpus()))
    return int(config["device"].startswith(("cuda", "mps")))


# What was typed besides the target, for those who want to make a report again.
AS_TYPED = "".join(
    f" {shlex.quote(word)}"
    for word in [
        *(
            ["--snakefile", workflow.main_snakefile]
            if Path(workflow.main_snakefile) != Path("workflow/Snakefile").absolute()
            else []
        ),
        *(["--replace-workflow-config"] if ALONE else []),
        *(["--configfile", *GIVEN] if GIVEN else []),
        *(["--config", *workflow.config_settings.config_args] if workflow.config_settings.config_args else []),
    ]
)


wildcard_constraints:
    dataset="|".join(config["datasets"]),
    backbone="|".join(config["backbones"]),
    method="|".join(config["methods"]),
    policy="|".join([*config["policies"], "oracle"]),
    variant="[^/]+",
    split="|".join(SPLITS),
    seed=r"\d+",
    k=r"\d+",
    question="|".join(plugins.names("benchmarks")),


def memory(base, times):
    """mem_mb of a job: a base, and so many times the size of its input files (on disk images take what they take in memory)."""
    return lambda wildcards, input: base + math.ceil(times * input.size_mb)


def branch_count(wildcards):
    return len(config["backbones"][wildcards.backbone]["taps"])


def settings_of(rule_name, wildcards):
    """The config that one job's result depends on, and nothing else."""
    dataset = config["datasets"].get(wildcards.get("dataset"), {})
    backbone = config["backbones"].get(wildcards.get("backbone"), {})
    method = config["methods"].get(wildcards.get("method"), {}).get("variants", {}).get(wildcards.get("variant"), {})
    features = config["features"]
    # What thresholds are compared with: a policy may read another score than the method's own.
    policy = dict(config["policies"].get(wildcards.get("policy"), {"score": None}))
    score = policy.pop("score") or method.get("score")

    def part(block, *keys):
        return {key: block[key] for key in keys}

    if rule_name == "prepare_dataset":
        return part(dataset, "source")
    if rule_name == "measure_taps":
        return part(backbone, "network", "stem", "taps", "pool") | part(dataset, "input_size")
    if rule_name == "train_backbone":
        brought = ("checkpoint_key", "expected_accuracy") if backbone["checkpoint"] else ()
        return part(backbone, "network", "stem", "normalisation", "seed", "trained_on", *brought) | part(
            dataset, "input_size", "augment", "training", "head_holdout"
        )
    if rule_name == "cache_features":
        return part(dataset, "views") | part(features, "precision", "codec", "compute", "batch_size", "order_seed")
    if rule_name == "train_branch":
        return part(method, "recipe", "head", "target", "shared_core", "correct") | part(features, "memory_mb")
    if rule_name == "train_branches":
        return part(method, "recipe", "head", "target", "shared_core") | part(features, "memory_mb")
    if rule_name == "weigh_survivors":
        return part(method, "weighting", "score", "correct")
    if rule_name == "calibrate":
        return {"policy": policy, "score": score} | part(method, "correct") | part(config["evaluation"], "folds")
    if rule_name == "evaluate":
        return {"score": score} | part(method, "correct")
    if rule_name == "benchmark":
        return {"benchmark": {"name": wildcards.question}} | part(config["benchmarks"], "repeats", "scale")
    return {}


def settings(rule_name):
    """A rule's block as one canonical JSON text: compared whole, and what the command line shows."""
    return lambda wildcards: canonical_json(settings_of(rule_name, wildcards))


def source_hashes(rule_name):
    """{file: hash} of every source file that the rule's step reads: an edit reruns exactly these rules."""

    def hashes(wildcards):
        try:
            return sources.of_step(rule_name, settings_of(rule_name, wildcards))
        except CalexError as error:
            refuse(error)

    return hashes


def looks_back(wildcards):
    """Does a method's weighting need the branches before? Then its branches train one after the other."""
    return plan.sequential(config["methods"][wildcards.method]["variants"][wildcards.variant])


def methods_that_train(joint):
    """A pattern for the methods whose recipe trains all branches at once, or for the others; there may be none."""
    names = [
        name
        for name, method in config["methods"].items()
        if any(recipes.joint(variant["recipe"]["name"]) == joint for variant in method["variants"].values())
    ]
    return "|".join(names) or "(?!)"


def points_table(wildcards):
    """A dataset's table of operating points; a dataset that the config does not know ends the run."""
    if wildcards.dataset not in config["datasets"]:
        refuse(f"results/pareto_{wildcards.dataset}.html: unknown dataset, {suggestion(wildcards.dataset, config['datasets'])}")
    return f"results/points_{wildcards.dataset}.parquet"


def exits_up_to(count):
    """exits1.npz … exits{count}.npz of a cascade; `count` is a number or a function of wildcards."""

    def paths(wildcards):
        last = count(wildcards) if callable(count) else count
        folder = f"results/{wildcards.dataset}/{wildcards.backbone}/{wildcards.method}/{wildcards.variant}/seed{wildcards.seed}"
        return [f"{folder}/exits{k}.npz" for k in range(1, last + 1)]

    return paths


def run_of(wildcards):
    """What a report says was run: the dataset's own part of the config, resolved."""
    entry = config["datasets"][wildcards.dataset]
    policies = {policy for method in entry["methods"] for policy in config["methods"][method]["policies"]}
    return {
        "name": wildcards.dataset,
        "config": {
            "seeds": config["seeds"],
            "datasets": {wildcards.dataset: entry},
            "backbones": {name: config["backbones"][name] for name in entry["backbones"]},
            "features": config["features"],
            "methods": {name: config["methods"][name] for name in entry["methods"]},
            "policies": {name: config["policies"][name] for name in sorted(policies)},
            "evaluation": config["evaluation"],
        },
    }
