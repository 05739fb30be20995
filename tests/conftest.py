"""What several test files share: the repository, and one real run of the whole workflow on a tiny config."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from calex.system.locks import locked

# Beside another worker a second thread is no gain, and two trainings of two threads each would wait for one another. Set before
# torch is imported, because OpenMP reads it once. A step that is given `--threads` has as many all the same.
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if WORKER:
    os.environ["OMP_NUM_THREADS"] = "1"


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One worker more than there are cores, because some tests wait for jobs most of the time."""
    return len(os.sched_getaffinity(0)) + 1 if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1) + 1


REPOSITORY = Path(__file__).parents[1]
Snakemake = Callable[..., subprocess.CompletedProcess[str]]

# Property tests: the same examples in every run, or as many times more new ones as EXPLORE says
# (`pytest -m hypothesis --hypothesis-profile explore`). `few` is for other versions of the same libraries.
EXPLORE = 50
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=100)
settings.register_profile("few", derandomize=True, deadline=None, max_examples=10)
settings.register_profile("explore", deadline=None, max_examples=100 * EXPLORE, print_blob=True)
settings.load_profile("fixed")


def examples(number: int) -> settings:
    """So many examples of a property test in the default run instead of 100, and in proportion under another profile."""
    return settings(max_examples=max(1, number * settings.default.max_examples // 100))


RUN_SNAKEMAKE = {"run_snakemake", "shell"}  # functions of this file and of clones.py


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What runs the workflow, dry or not, is marked: `-m 'not workflow'` is the library alone.

    By the functions that a test or one of its fixtures calls. Its files come first, because they take longest: several workers
    then end together.
    """
    for item in items:
        if not isinstance(item, pytest.Function):
            continue
        fixtures = (one.func for several in item._fixtureinfo.name2fixturedefs.values() for one in several)
        names = (function.__code__.co_names for function in (item.function, *fixtures) if hasattr(function, "__code__"))
        if not RUN_SNAKEMAKE.isdisjoint(itertools.chain.from_iterable(names)):
            item.add_marker("workflow")
    slow = {item.path for item in items if item.get_closest_marker("workflow")}
    items.sort(key=lambda item: item.path not in slow)


def run_snakemake(
    directory: Path,
    *arguments: str,
    config: Path | Sequence[Path] = REPOSITORY / "tests" / "tiny.yaml",
    repository: Path = REPOSITORY,
) -> subprocess.CompletedProcess[str]:
    """`snakemake` in a folder of its own, with the workflow and the library of one copy of the repository.

    Of several config files the later ones lie over the earlier.
    """
    files = [config] if isinstance(config, Path) else config
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "workflow" / "Snakefile")]
    command += ["--directory", str(directory), *arguments, "--configfile", *map(str, files)]
    environment = os.environ | {"PYTHONPATH": str(repository)}
    return subprocess.run(command, cwd=directory, env=environment, capture_output=True, text=True, check=False)


def run_calex(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """`python -m calex …`."""
    command = [sys.executable, "-m", "calex", *map(str, arguments)]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def planned(output: str) -> dict[str, int]:
    """{rule: number of jobs} of a dry run."""
    stats = re.search(r"Job stats:\njob +count\n-[- ]*\n(.*?)\ntotal", output, re.DOTALL)
    return {line.split()[0]: int(line.split()[1]) for line in stats[1].splitlines()} if stats else {}


def copied_repository(folder: Path) -> Path:
    """A copy of all that a run needs of the repository, for a test that changes it."""
    for part in ("calex", "workflow", "config"):
        shutil.copytree(REPOSITORY / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "environment.yml", folder)
    return folder


def copied_run(run: Path, folder: Path) -> Path:
    """A copy of a finished run, for a test that goes on with it; less what a Snakemake that looks at it just now holds or writes."""
    passing = shutil.ignore_patterns("locks", "log")
    return Path(shutil.copytree(run, folder, symlinks=True, ignore=passing, dirs_exist_ok=True))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run on one core, with its cascade; nobody may change what is in it.

    Several workers share one, which the first of them makes.
    """
    shared = tmp_path_factory.getbasetemp()
    if WORKER:
        shared = shared.parent
    folder, finished = shared / "tiny", shared / "tiny.finished"
    with locked(shared / "tiny.lock", "the tiny run", wait=True):
        if not finished.is_file():
            folder.mkdir()
            done = run_snakemake(folder, "results/pareto_digits.html", "results/digits/resnet18/cascade", "--cores", "1")
            assert done.returncode == 0, done.stderr[-4000:]
            finished.touch()
    return folder
