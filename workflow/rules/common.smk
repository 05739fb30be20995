# Everything that rules share: the checked config, each rule's own part of it, the sources its step reads.

import math
import os
import shlex
import shutil
import sys
from pathlib import Path

from calex import datasets, plugins
from calex.config import merged, read_layers, read_yaml, validated
from calex.errors import CalexError
from calex.system.files import canonical_json
from calex.workflow import command_line, job_settings, plan, sources

CONFIG = "config/config.yaml"
SPLITS = ("train", "val", "test")
CASCADE = "{dataset}/{backbone}/{method}/{variant}/seed{seed}"  # in paths
RUN = "{wildcards.dataset} {wildcards.backbone} {wildcards.method} seed {wildcards.seed}"  # in messages


def checked(function, *arguments):
    """What a function returns. A CalexError ends the run in one line, without the frames that Snakemake would print around it."""
    try:
        return function(*arguments)
    except CalexError as error:
        print(f"calex: error: {error}", file=sys.stderr, flush=True)
        os._exit(2)


TYPED = command_line.read(workflow, CONFIG)
LAYERS = checked(read_layers, TYPED.layers)  # Snakemake's own complaint about a damaged file names neither file nor line


configfile: CONFIG


# Snakemake has merged the files already, but so that a head of another name would keep the options of the one below.
config = checked(
    validated,
    checked(merged, [*LAYERS, workflow.config_settings.config]),
    checked(read_yaml, Path(workflow.basedir) / "schemas" / "config.schema.yaml"),
    TYPED.where,
)

# `python` in a job is the one that runs this, also where its environment was not activated.
if shutil.which("python") != sys.executable:
    os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


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


def settings(rule_name):
    """A rule's part of the config as one canonical JSON text: compared whole, and what the command line shows."""
    return lambda wildcards: canonical_json(job_settings.settings(rule_name, config, wildcards))


def source_hashes(rule_name):
    """{file: hash} of every source file that the rule's step reads: an edit reruns exactly these rules."""
    return lambda wildcards: checked(sources.of_step, rule_name, job_settings.settings(rule_name, config, wildcards))


def computing(rule_name):
    """Where a step computes. Another device or thread count is no reason to compute again: Snakemake compares no param that
    follows from threads. (Resources would not do: jobs of one group must agree in those that are text.)"""
    return lambda wildcards, threads: f"--device {config['device']} --threads {config['threads'][rule_name]}"


# Jobs that share a submission to a cluster share its one GPU: inside it no profile and no --resources say so.
if not workflow.is_main_process:
    workflow.register_resource("gpu", 1)


def gpus(wildcards):
    return int(job_settings.wants_gpu(config["device"], remote=workflow.non_local_exec or not workflow.is_main_process))


def memory(base, times):
    """mem_mb of a job: a base, and so many times the size of its images (which take on disk what they take in memory)."""
    # Not `input.size_mb`: while it plans, Snakemake cannot answer that, and Python warns of a coroutine that nobody awaited.
    return lambda wildcards, input: base + math.ceil(times * os.path.getsize(input.dataset) / 1e6)


def exits(wildcards, last=None):
    """The exits of a cascade's branches, up to the last or to a given one."""
    numbers = plan.branch_numbers(config, wildcards.backbone)[:last]
    return [f"results/{CASCADE}/exits{k}.npz".format(**wildcards) for k in numbers]
