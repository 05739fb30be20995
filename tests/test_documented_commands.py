"""Every command line of every page is run as it stands, in a clone: really where it is quick, else as a dry run."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import documented
import pytest
from clones import TINY, clone, clone_with_results, shell
from PIL import Image

COMMANDS = documented.commands()

# Those that cannot run here, each with the reason.
EXCEPTED = {
    "snakemake --configfile mine.yaml …": "a pattern: the target is the reader's",
    "python -m calex taps NETWORK": "a pattern: the network is the reader's",
    "bash .ci/run": "runs everything, these tests too",
    "pre-commit install": "changes how the reader's own git commits",
    "python .ci/versions.py tested > constraints.txt": "asks the package index what is newest",
    "python .ci/versions.py lowest > .ci/lowest.txt": "asks the package index what is oldest",
    "cp -a": "a pattern: what is copied is the reader's",
    "cp -r": "a pattern: what is copied is the reader's",
    "python -m calex quote results/benchmarks.md --into results/studies/benchmarks.md": "reads what ten minutes of measuring write",
    **{
        f"python -m calex quote results/pareto_{dataset}.md --into results/studies/{page}.md": "reads what hours write"
        for dataset, page in itertools.product(("fashion_mnist", "emoji"), ("rivals", "paper", "policies", "targets"))
    },
    **{
        f"snakemake --cores all results/pareto_emoji.html --configfile config/emoji.yaml config/emoji_{view}.yaml": "reads weights and "
        "pictures that are not here"
        for view in ("rivals", "paper", "policies", "targets")
    },
    **{
        f"snakemake --cores all results/heads_emoji_{study}.html --configfile config/emoji.yaml config/heads.yaml "
        "config/heads_emoji.yaml": "reads weights and pictures that are not here"
        for study in ("heads", "training")
    },
    **{
        f"python -m calex subsets results/{dataset}_taps/{backbone}_everywhere/auto_head/default/seed0 --budgets {budgets}": "reads what "
        "hours write"
        for dataset, backbone, budgets in (
            ("emoji", "lite0", "0.7 0.6 0.5 0.4 0.3 0.25 0.2"),
            ("fashion_mnist", "resnet18", "0.7 0.5 0.3 0.25 0.2 0.16"),
        )
    },
    "python -m calex quote results/heads_fashion_mnist_heads.md --into results/studies/heads.md": "reads what hours write",
    **{
        f"python -m calex quote results/heads_emoji_{study}.md --into results/studies/heads.md": "reads what hours write"
        for study in ("heads", "training")
    },
    "python tests/earlyon/compare.py --images 2000": "needs earlyon, and minutes; tests/test_earlyon.py runs it where it is installed",
    "python tests/slurm/ratio.py": "starts a Slurm cluster, as root; tests/slurm does",
    "scontrol show config": "needs a Slurm cluster",
    "python -c \"from torchvision import models; models.resnet50(weights='IMAGENET1K_V1')\"": "downloads weights",
}

# What makes a dry run of a program.
DRY = {
    "snakemake": "snakemake -n",
    "pip install": "pip install --quiet --dry-run --no-deps --no-build-isolation",  # which asks no package index
    "pytest": "pytest --collect-only --quiet",
}

REPORT = "snakemake --cores all results/pareto_digits.html"


def quick(command: str) -> bool:
    """Does it run really? Not what installs or tests; of Snakemake what asks for the tiny report or for no file at all."""
    words = command.split()
    if words[0] == "snakemake":
        targets = [word for word in words if word.startswith("results/")]
        elsewhere = {"--configfile", "--profile"} & set(words)
        return not elsewhere and all("digits" in target for target in targets)
    return not any(command.startswith(program) for program in DRY)


def dry(command: str) -> str:
    program = next(program for program in DRY if command.startswith(program))
    return command.replace(program, DRY[program], 1)


REALLY = [command for command in COMMANDS if command not in EXCEPTED and quick(command)]
PLANNED = [command for command in COMMANDS if command not in EXCEPTED and not quick(command)]


def with_written_files(folder: Path) -> Path:
    for name, content in documented.written_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (folder / "my_network.pt").touch()  # the checkpoint that mine.yaml names
    (folder / "photos").mkdir()
    Image.new("L", (8, 8), 200).save(folder / "photos" / "one.png")
    return folder


@pytest.fixture(scope="module")
def tiny_clone(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone with the tiny config and its results, in which the README's first command has made the report.

    From nothing that command makes it where runs are killed (test_recovery.py).
    """
    folder = with_written_files(clone_with_results(tmp_path_factory.mktemp("tiny_clone"), tiny, TINY))
    (folder / "results/pareto_digits.html").unlink()
    done = shell(folder, REPORT)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return folder


@pytest.fixture(scope="module")
def shipped_clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_written_files(clone(tmp_path_factory.mktemp("shipped_clone")))


def test_the_pages_hold_commands_of_every_sort(capsys: pytest.CaptureFixture[str]) -> None:
    programs = {command.split()[0] for command in COMMANDS}
    assert {"pip", "pytest", "python", "snakemake"} <= programs and REPORT in COMMANDS
    assert any("--unlock" in command for command in REALLY) and any("slurm" in command for command in PLANNED)
    with capsys.disabled():
        excepted = "".join(f"\n  {command}: {reason}" for command, reason in EXCEPTED.items())
        print(
            f"\n{len(COMMANDS)} documented commands: {len(REALLY)} really, {len(PLANNED)} as dry runs, {len(EXCEPTED)} not:{excepted}"
        )


def test_every_exception_is_still_a_command_of_the_pages() -> None:
    assert [command for command in EXCEPTED if command not in COMMANDS] == []


@pytest.mark.parametrize("command", REALLY)
def test_a_quick_command_runs(tiny_clone: Path, command: str) -> None:
    done = shell(tiny_clone, command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.mark.parametrize("command", PLANNED)
def test_a_long_command_plans(shipped_clone: Path, command: str) -> None:
    done = shell(shipped_clone, dry(command))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "does not provide the extra" not in done.stderr
    for file in re.findall(r"--configfile ((?:[^-\s]\S*\s*)+)", command):
        assert all((shipped_clone / name).is_file() for name in file.split()), file
