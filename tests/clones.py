"""Copies of the repository as git would clone it, some of them with a config that makes every command quick."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import REPOSITORY, copied_run

TINY = REPOSITORY / "tests" / "tiny.yaml"


def own_files(pattern: str = "*", repository: Path = REPOSITORY) -> list[str]:
    """The repository's files: those that git tracks, and new ones in folders of theirs.

    What else lies beside them is the user's: `photos/` and `mine.yaml`, which the README has one make.
    """

    def listed(*options: str) -> list[str]:
        command = ["git", "ls-files", "-z", *options]
        done = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True)
        return [name for name in done.stdout.split("\0") if name and (repository / name).is_file()]  # none that was deleted

    folders = {name.split("/")[0] for name in listed() if "/" in name}
    new = [name for name in listed("--others", "--exclude-standard", pattern) if name.split("/")[0] in folders]
    return sorted({*listed(pattern), *new})


def clone(folder: Path, config: Path | None = None) -> Path:
    """A repository of every file of this one; with another config in the default's place."""
    for name in own_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    if config is not None:
        shutil.copy(config, folder / "config" / "config.yaml")
    subprocess.run("git init --quiet && git add --all", shell=True, cwd=folder, check=True)
    return folder


def clone_with_results(folder: Path, run: Path, config: Path) -> Path:
    """A clone in which what another folder's run made stands as if it had been made there."""
    clone(folder, config=config)
    for part in ("results", ".snakemake", "logs"):
        copied_run(run / part, folder / part)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """That of a shell in a clone in which calex was installed with `pip install -e .`, in the environment of the tests."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": path, "PYTHONPATH": str(folder)}


def shell(folder: Path, command: str) -> subprocess.CompletedProcess[str]:
    """A command line as a person types it in a clone."""
    return subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(folder), capture_output=True, text=True, check=False
    )
