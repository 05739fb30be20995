"""How much longer the tiny run takes through Slurm than on the machine itself: `python tests/slurm/ratio.py`, as root.

Both run in clones of their own, in turn, and their results are compared.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import one_node
from clones import TINY, clone, shell

from calex.system.files import sha256

LOCAL = "snakemake --cores all results/pareto_digits.html"
CLUSTER = "snakemake --profile workflow/profiles/slurm results/pareto_digits.html"
TABLES = ("results/points_digits.parquet", "results/digits/paired.parquet")


def timed(folder: Path, command: str) -> tuple[float, dict[str, str]]:
    """Seconds that a command takes, and the hashes of the tables that it makes."""
    start = time.monotonic()
    done = shell(folder, command)
    seconds = time.monotonic() - start
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return seconds, {name: sha256((folder / name).read_bytes()) for name in TABLES}


def main() -> None:
    if hindrance := one_node.hindrance():
        sys.exit(f"no Slurm cluster of one node: {hindrance}")
    with one_node.running(), tempfile.TemporaryDirectory() as folder:
        local, here = timed(clone(Path(folder) / "local", config=TINY), LOCAL)
        cluster, there = timed(clone(Path(folder) / "cluster", config=TINY), CLUSTER)
    same = "the same bits" if here == there else "OTHER BITS"
    print(f"local {local:.0f} s, through Slurm {cluster:.0f} s: ratio {cluster / local:.2f}, {same}")


if __name__ == "__main__":
    main()
