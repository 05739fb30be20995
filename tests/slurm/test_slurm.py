"""The README's command for clusters on a real Slurm of one node, and a job that is cancelled under way.

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


def clone_without(method: str, tiny: Path, folder: Path) -> Path:
    """A clone with a finished run in it, less what one method and all methods together have made."""
    clone_with_results(folder, tiny, TINY)
    shutil.rmtree(folder / "results/digits/resnet18" / method)
    for file in [*TABLES, "results/digits/run.json", "results/pareto_digits.html"]:
        (folder / file).unlink()
    return folder


def assert_same_tables(folder: Path, other: Path) -> None:
    for name in TABLES:
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name


def test_the_documented_command_makes_the_same_bits(cluster: None, tiny: Path, tmp_path: Path) -> None:
    assert COMMAND in documented.commands()
    folder = clone(tmp_path / "clone", config=TINY)
    done = shell(folder, COMMAND)
    assert done.returncode == 0, done.stderr[-4000:]
    assert_same_tables(folder, tiny)
    assert sorted(submissions(done.stderr)) == [
        "group_cascade",
        "group_cascade",
        "group_images",
        "group_report",
        "rule_cache_features",
        "rule_cache_features",
        "rule_cache_features",
        "rule_train_backbone",
    ]


def test_a_cancelled_job_is_submitted_again(cluster: None, tiny: Path, tmp_path: Path) -> None:
    folder = clone_without("calexnet", tiny, tmp_path / "clone")
    run = subprocess.Popen(
        ["bash", "-c", COMMAND],
        cwd=folder,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    log = folder / "logs/digits/resnet18/calexnet/default/seed0/branch1.log"
    log.unlink()
    while run.poll() is None and not log.is_file():
        time.sleep(0.1)
    subprocess.run("scancel --state=RUNNING --user=root", shell=True, check=True, env=os.environ)
    output, _ = run.communicate()
    assert run.returncode == 0, output[-4000:]
    states = subprocess.run(["squeue", "--states=all", "--noheader", "--Format=state"], capture_output=True, text=True).stdout
    assert "CANCELLED" in states.split() and "Trying to restart job" in output
    assert submissions(output) == ["group_cascade", "group_cascade", "group_report"]
    assert_same_tables(folder, tiny)
    points = pl.read_parquet(folder / TABLES[0])
    assert set(points["method"]) == {"backbone", "calexnet", "reference"}


def test_a_submission_asks_for_one_gpu_where_the_cluster_has_any(cluster: None, tiny: Path, tmp_path: Path) -> None:
    """Three branches that could train side by side share the one GPU that the node offers; there is no real one."""
    folder = clone_without("reference", tiny, tmp_path / "clone")
    done = shell(folder, f"{COMMAND} --config device=auto")
    assert done.returncode == 0, done.stderr[-4000:]
    assert submissions(done.stderr) == ["group_cascade", "group_report"]
    listed = subprocess.run(
        ["squeue", "--states=all", "--sort=i", "--noheader", "--Format=tres-per-job"], capture_output=True, text=True
    )
    assert sorted(listed.stdout.split()[-2:]) == ["N/A", "gres:gpu:1"]
    assert_same_tables(folder, tiny)
