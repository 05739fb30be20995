"""The README's command for clusters on a real Slurm of one node, with jobs that are cancelled under way.

Runs as root where Debian's packages slurm-wlm and munge are installed and the machine belongs to no cluster.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import documented
import one_node
import polars as pl
import pytest
from clones import TINY, clone, clone_with_results, environment, shell

COMMAND = "snakemake --profile workflow/profiles/slurm results/pareto_digits.html"
TABLES = ("results/points_digits.parquet", "results/digits/paired.parquet")

HINDRANCE = one_node.hindrance()
pytestmark = pytest.mark.skipif(bool(HINDRANCE), reason=f"starts a Slurm cluster of one node: {HINDRANCE}")


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with one_node.running():
        yield


def submissions(output: str) -> list[str]:
    """What was submitted, by the folder of its log: group_cascade, rule_train_backbone, …"""
    return re.findall(r"submitted with SLURM jobid \d+ \(log: \S*/slurm_logs/(group_[a-z]+|rule_\w+)", output)


def assert_same_tables(folder: Path, other: Path) -> None:
    for name in TABLES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_the_documented_command_makes_the_same_bits_though_jobs_are_cancelled(
    cluster: None, tiny: Path, tmp_path: Path
) -> None:
    assert COMMAND in documented.commands()
    folder = clone(tmp_path / "clone", config=TINY)
    run = subprocess.Popen(
        ["bash", "-c", COMMAND],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = folder / "logs/digits/resnet18/calexnet/default/seed0/branch1.log"
    while run.poll() is None and not log.is_file():
        time.sleep(0.1)
    subprocess.run("scancel --state=RUNNING --user=root", shell=True, check=True, env=os.environ)
    output, _ = run.communicate()
    assert run.returncode == 0, output[-4000:]
    states = subprocess.run(["squeue", "--states=all", "--noheader", "--Format=state"], capture_output=True, text=True).stdout
    again = output.count("Trying to restart job")
    assert "CANCELLED" in states.split() and again > 0
    assert sorted(submissions(output)) == [
        *["group_cascade"] * (2 + again),  # one of each method, and again what ran when it was cancelled
        "group_images",
        "group_report",
        "rule_cache_features",
        "rule_cache_features",
        "rule_cache_features",
        "rule_train_backbone",
    ]
    assert_same_tables(folder, tiny)
    points = pl.read_parquet(folder / TABLES[0])
    assert set(points["method"]) == {"backbone", "calexnet", "reference"}


def test_a_submission_asks_for_one_gpu_where_the_cluster_has_any(cluster: None, tiny: Path, tmp_path: Path) -> None:
    """Three branches that could train side by side share the one GPU that the node offers; there is no real one."""
    folder = clone_with_results(tmp_path / "clone", tiny, TINY)
    shutil.rmtree(folder / "results/digits/resnet18/reference")
    for file in [*TABLES, "results/digits/run.json", "results/pareto_digits.html"]:
        (folder / file).unlink()
    done = shell(folder, f"{COMMAND} --config device=auto")
    assert done.returncode == 0, done.stderr[-4000:]
    assert submissions(done.stderr) == ["group_cascade", "group_report"]
    listed = subprocess.run(
        ["squeue", "--states=all", "--sort=i", "--noheader", "--Format=tres-per-job"], capture_output=True, text=True
    )
    assert sorted(listed.stdout.split()[-2:]) == ["N/A", "gres:gpu:1"]
    assert_same_tables(folder, tiny)
