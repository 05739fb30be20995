# Everything that rules share: the checked config, each rule's own part of it, the sources its step reads.

import math
import os
import shlex
import shutil
import sys
from pathlib import Path

from calex import command_line, datasets, jobs, plan, plugins, sources
from calex.config import merged, read_layers, read_yaml, validated
from calex.errors import CalexError, suggestion
from calex.files import canonical_json

CONFIG = "config/config.yaml"
SPLITS = ("train", "val", "test")
CASCADE = "{dataset}/{backbone}/{method}/{variant}/seed{seed}"


def refuse(error):
    """Stop with one line, without the frames that an exception inside a Snakefile would print around it."""
    print(f"calex: error: {error}", file=sys.stderr, flush=True)
    os._exit(2)


# Shell commands name what no result depends on (device, threads, the options as typed) as it stands in variables, not in
# params: another device is no reason to compute again. Nor in resources: jobs of a group must agree in those that are text.
TYPED = command_line.read(workflow, CONFIG)

try:
    LAYERS = read_layers(TYPED.layers)  # Snakemake's own complaint about a damaged file names neither file nor line
except CalexError as error:
    refuse(error)


configfile: CONFIG


try:
    # Snakemake has merged the files already, but so that a head of another name would keep the options of the one below.
    schema = read_yaml(Path(workflow.basedir) / "schemas" / "config.schema.yaml")
    config = validated(merged([*LAYERS, workflow.config_settings.config]), schema, TYPED.where)
except CalexError as error:
    refuse(error)

# `python` in a job is the one that runs this, also where its environment was not activated.
if shutil.which("python") != sys.executable:
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"


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
    return lambda wildcards: canonical_json(jobs.settings(rule_name, config, wildcards))


def source_hashes(rule_name):
    """{file: hash} of every source file that the rule's step reads: an edit reruns exactly these rules."""

    def hashes(wildcards):
        try:
            return sources.of_step(rule_name, jobs.settings(rule_name, config, wildcards))
        except CalexError as error:
            refuse(error)

    return hashes


# Jobs that share a submission to a cluster share its one GPU: inside it no profile and no --resources say so.
if not workflow.is_main_process:
    workflow.register_resource("gpu", 1)


def gpus(wildcards):
    return int(jobs.wants_gpu(config["device"], remote=workflow.non_local_exec or not workflow.is_main_process))


def memory(base, times):
    """mem_mb of a job: a base, and so many times the size of its input files (on disk images take what they take in memory)."""
    return lambda wildcards, input: base + math.ceil(times * input.size_mb)


def exits(wildcards, last=None):
    """The exits of a cascade's branches, up to the last or to a given one."""
    last = len(config["backbones"][wildcards.backbone]["taps"]) if last is None else last
    return [f"results/{CASCADE}/exits{k}.npz".format(**wildcards) for k in range(1, last + 1)]
