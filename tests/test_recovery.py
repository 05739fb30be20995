"""Everything is killed at once, again and again; what the pages say to type then completes the run, to the same bits.

The other run, `tiny`, was not killed and had one core; this one has all. So the number of cores changes no bit either.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import documented
import pytest
from clones import TINY, clone, environment, shell

from calex.system.files import sha256

CASCADE = "digits/resnet18/calexnet/default/seed0"
# The moments of the kills: the file that a job in full swing writes to, and for how long it may go on from there.
MOMENTS = [
    ("logs/digits/images.log", 0.0),
    ("logs/digits/resnet18/backbone.log", 0.5),
    ("logs/digits/resnet18/features/train.log", 0.3),
    (f"logs/{CASCADE}/branch1.log", 0.3),
    (f"logs/{CASCADE}/branch3.log", 0.0),
    (f"logs/{CASCADE}/cpm_survivors.points.log", 0.0),
    ("logs/digits/paired.log", 0.0),
]


def recovery() -> list[str]:
    """The commands of the blocks that unlock, which are the same on every page: all of them, in their order."""
    found = [
        block.text.splitlines()
        for page in documented.pages()
        for block in documented.blocks(page.read_text(encoding="utf-8"))
        if block.text.startswith("snakemake --unlock")
    ]
    assert found and found.count(found[0]) == len(found), "the pages give one recovery"
    return found[0]


def killed(folder: Path, command: str, log: str, seconds: float) -> bool:
    """Run a command until a job writes to its log, then kill -9 its whole process group; False if it ended before."""
    before = (folder / log).stat().st_mtime_ns if (folder / log).is_file() else 0
    process = subprocess.Popen(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(folder),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not ((folder / log).is_file() and (folder / log).stat().st_mtime_ns > before):
        time.sleep(0.02)
    time.sleep(seconds)
    ended = process.poll() is not None
    os.killpg(process.pid, signal.SIGKILL) if not ended else None
    process.wait()
    return not ended


def contents(folder: Path) -> dict[str, str]:
    """The hash of every result. What holds the command differs; what never got its final name or is a tracked page is none; and
    the cascade is not asked for."""
    files = (path for path in (folder / "results").rglob("*") if path.is_file() and path.suffix != ".partial")
    skipped = {".snakemake_timestamp", "run.json", "README.md", "studies", "pareto_digits.html", "pareto_digits.md", "cascade"}
    return {str(path.relative_to(folder)): sha256(path.read_bytes()) for path in files if not skipped & set(path.parts)}


def test_a_run_that_was_killed_at_every_stage_ends_in_the_same_bits(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unlock, *again = recovery()
    (run,) = again
    folder = clone(tmp_path / "clone", config=TINY)
    kills = []
    for log, seconds in MOMENTS:
        kills.append(killed(folder, run, log, seconds))
        locked = shell(folder, run) if kills == [True] else None
        if locked is not None:  # once: without the first command it does not go on
            assert locked.returncode != 0 and "lock" in locked.stderr.lower()
        done = shell(folder, unlock)
        assert done.returncode == 0, done.stderr[-2000:]
    assert sum(kills) >= len(MOMENTS) - 1, kills  # a job of milliseconds may be over before its log is seen
    done = shell(folder, run)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert contents(folder) == contents(tiny)
    with capsys.disabled():
        print(f"\nkilled {sum(kills)} times; then: {unlock}; {run}")
