"""The project's own promises: package lists agree, every key is explained, every command has help, torch stays out."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, run_calex
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import calex
from calex import plugins
from calex.__main__ import COMMANDS, main

direct = runpy.run_path(str(REPOSITORY / ".ci" / "versions.py"))["direct"]
# The same package under the name that conda gives it.
CONDA_NAMES = {"torch": "pytorch", "snakemake": "snakemake-minimal"}


def test_environment_yml_agrees_with_pyproject() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = {f"python{project['requires-python']}"}
    for requirement in project["dependencies"]:
        name = re.split(r"[<>=]", requirement)[0]
        wanted.add(requirement.replace(name, CONDA_NAMES.get(name, name), 1))
    assert set(yaml.safe_load((REPOSITORY / "environment.yml").read_text())["dependencies"]) == wanted


def test_the_version_is_the_same_everywhere() -> None:
    assert yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())["version"] == calex.__version__
    assert f"\n## {calex.__version__}\n" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_a_commit_is_checked_as_a_landing_is() -> None:
    """Each tool of the quick part of .ci/run, and no other, is a hook."""
    (repository,) = yaml.safe_load((REPOSITORY / ".pre-commit-config.yaml").read_text())["repos"]
    hooks = {hook["name"] for hook in repository["hooks"]}
    script = (REPOSITORY / ".ci/run").read_text()
    assert hooks == set(re.findall(r"^(ruff check|ruff format|snakefmt|mypy)\b", script, re.MULTILINE))
    (job,) = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert job["steps"][-1] == {"run": "bash .ci/run"}


def test_every_dependency_has_both_bounds() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    for requirement in [*project["dependencies"], *extras]:
        of_ours = requirement.startswith(f"{project['name']}[")
        assert of_ours or (">=" in requirement and "<" in requirement), requirement


def pinned(file: str) -> dict[str, Version]:
    """{name: version} of a file of constraints, every line of which names one exact version."""
    lines = [line.split("#")[0].strip() for line in (REPOSITORY / file).read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    assert all([one.operator for one in requirement.specifier] == ["=="] for requirement in requirements)
    return {canonicalize_name(one.name): Version(next(iter(one.specifier)).version) for one in requirements}


@pytest.mark.parametrize(("file", "without"), [("constraints.txt", ""), (".ci/lowest.txt", "onnx")])
def test_what_is_pinned_is_allowed_whatever_the_build(file: str, without: str) -> None:
    """`torch==2.13.0` is met by a CPU build and by a CUDA build; `torch==2.13.0+cpu` by one of them."""
    versions = pinned(file)
    assert [name for name, version in versions.items() if version.local] == []
    for requirement in direct(without):
        assert requirement.specifier.contains(versions[canonicalize_name(requirement.name)]), requirement


def test_the_lowest_versions_are_the_bounds_of_pyproject() -> None:
    command = [sys.executable, ".ci/versions.py", "lowest"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == (REPOSITORY / ".ci/lowest.txt").read_text()


@pytest.mark.skipif(
    None in map(find_spec, ("snakemake_executor_plugin_slurm", "onnx", "onnxruntime", "onnxscript")),
    reason="needs every extra installed",
)
def test_the_tested_versions_are_those_of_an_environment() -> None:
    command = [sys.executable, ".ci/versions.py", "tested"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert {canonicalize_name(requirement.name) for requirement in direct()} <= {line.split("==")[0] for line in lines}
    # scipy is scikit-learn's; torch's own version here may say which build it is.
    assert {f"{name}=={version(name).split('+')[0]}" for name in ("torch", "scipy")} <= set(lines)


def test_every_property_test_explores() -> None:
    """A number of examples that a test fixes itself would be the same under every profile."""
    fixed = [
        path.name for path in (REPOSITORY / "tests").glob("**/test_*.py") if re.search(r"max_examples\s*=", path.read_text())
    ]
    assert fixed == []


def keys_of(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Every key that a schema allows, with its default, at any depth."""
    found: dict[str, Any] = {}
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for key, part in schema.get("properties", {}).items():
        found[key] = part.get("default")
        found |= keys_of(part, root)
    if isinstance(schema.get("additionalProperties"), dict):
        found |= keys_of(schema["additionalProperties"], root)
    return found


def test_every_key_of_the_config_is_explained() -> None:
    schema = yaml.safe_load((REPOSITORY / "workflow/schemas/config.schema.yaml").read_text())
    text = (REPOSITORY / "config/README.md").read_text()
    missing = [
        key for key in keys_of(schema, schema) if f"`{key}`" not in text and key not in {"name", "mean", "std", "shift", "flip"}
    ]
    assert missing == []


def documented() -> dict[tuple[str, str], dict[str, Any]]:
    """{(kind, plugin): {option: default}} of the tables in config/README.md."""
    kinds = {kind.removesuffix("s") if kind != "policies" else "policy": kind for kind in plugins.KINDS if kind != "datasets"}
    options: dict[tuple[str, str], dict[str, Any]] = {}
    for line in (REPOSITORY / "config/README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line[1:-1].split("|")]
        if not line.startswith("| ") or len(cells) != 4:
            continue
        block, option, _, default = cells
        if block:
            word = block.split()[0]
            kind = kinds.get(word, "datasets" if word.startswith("`") else "")
            known = plugins.names(kind) if kind else []
            names = [name for name in re.findall(r"`(\w+)`", block.split("(")[0].split(":")[0]) if name in known]
        for name in names:
            options.setdefault((kind, name), {})
            # A row may explain several options that belong together: `a`, `b` with defaults `1`, `2`.
            for key, value in zip(re.findall("`([^`]+)`", option), re.findall("`([^`]+)`", default), strict=True):
                options[kind, name][key] = yaml.safe_load(value)
    return options


def test_every_option_of_a_plugin_is_explained_with_its_default_and_no_other() -> None:
    declared = {
        (kind, name): plugins.constants(kind, name).get("OPTIONS", {}) for kind in plugins.KINDS for name in plugins.names(kind)
    }
    assert documented() == declared


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_that_teaches(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    printed = capsys.readouterr().out
    assert "usage: python -m calex" in printed
    assert len(printed.splitlines()) > 6


def test_the_command_line_lists_the_commands_and_names_a_closest_match() -> None:
    listed = run_calex("--help").stdout
    assert [command for command in COMMANDS if command not in listed] == []
    done = run_calex("calibrat")
    assert done.returncode == 2
    assert done.stderr == "calex: error: unknown command 'calibrat', did you mean 'calibrate'?\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["inspect", "--help"], ["--version"], ["calibrat"]])
def test_a_reader_that_goes_early_gets_no_traceback(arguments: list[str], unbuffered: str, tmp_path: Path) -> None:
    """The pipe is closed before anything is written, as the worst `| head` may do."""
    reading, writing = os.pipe()
    os.close(reading)
    complaints = tmp_path / "stderr"
    with complaints.open("w") as errors:
        command = [sys.executable, "-m", "calex", *arguments]
        environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
        where = {"stderr": writing, "stdout": errors} if "calibrat" in arguments else {"stdout": writing, "stderr": errors}
        done = subprocess.run(command, cwd=REPOSITORY, env=environment, check=False, **where)
    os.close(writing)
    assert complaints.read_text() == ""
    assert done.returncode in {0, 141}  # argparse swallows the error of its own help


@pytest.mark.parametrize(
    "command",
    [
        "weigh_survivors",
        "calibrate",
        "evaluate",
        "pareto",
        "compare",
        "report",
        "inspect",
        "verify",
        "report_benchmarks",
        "quote",
    ],
)
def test_what_follows_the_branches_never_imports_torch(command: str) -> None:
    code = f"import sys, calex.__main__, calex.steps.{command}, calex.policies.cpm, calex.weightings.survivors; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            [
                "calibrate",
                "--exits",
                "no/such.npz",
                "--settings",
                '{"policy":{"name":"cpm"},"score":"margin"}',
                "--out",
                "x.parquet",
            ],
            "no/such.npz: No such file",
        ),
        (["verify", "no/such.zarr"], "no/such"),
        (["report", "--points", "no.parquet", "--run", "no.json", "--out", "x.html"], "no"),
    ],
)
def test_a_missing_file_is_one_line(arguments: list[str], said: str, tmp_path: Path) -> None:
    done = run_calex(*arguments)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert said in done.stderr
    assert not (REPOSITORY / arguments[-1]).exists()


def test_nothing_is_left_under_a_final_name_when_a_writer_fails(tmp_path: Path) -> None:
    from calex.system.replacing import replacing

    target = tmp_path / "final.bin"
    target.write_bytes(b"before")
    with pytest.raises(RuntimeError), replacing(target) as partial:
        partial.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]
