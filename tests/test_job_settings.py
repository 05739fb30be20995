"""Which keys of the config a job's result depends on, and what of a command line makes a report again."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import REPOSITORY

from calex.config import merged, read_layers, read_yaml, validated
from calex.workflow import command_line, job_settings, slurm


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    schema = read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    return validated(merged(read_layers([str(REPOSITORY / "config/config.yaml")])), schema, "config.yaml")


JOB = {
    "dataset": "digits",
    "backbone": "resnet18",
    "method": "calexnet",
    "variant": "default",
    "policy": "cpm_full_softmax",
    "question": "dump",
}


def test_every_rule_of_the_table_is_a_rule_and_its_keys_exist(config: dict[str, Any]) -> None:
    rules = " ".join(path.read_text() for path in (REPOSITORY / "workflow/rules").glob("*.smk"))
    for rule, blocks in job_settings.DEPENDS_ON.items():
        assert f"rule {rule}:" in rules or f'"{rule}"' in rules, rule
        assert job_settings.settings(rule, config, JOB).keys() == {
            key for name in blocks if name not in ("given", "path") for key in blocks[name]
        }


def test_a_policy_may_read_another_score_than_the_methods_own(config: dict[str, Any]) -> None:
    assert job_settings.settings("calibrate", config, JOB)["score"] == "max_softmax"
    assert job_settings.settings("calibrate", config, JOB | {"policy": "cpm_full"})["score"] == "confidence"
    assert "score" not in job_settings.settings("calibrate", config, JOB)["policy"]
    # The oracle is no entry of the config: it reads what the method reads.
    read = {"score": "confidence", "last": "backbone", "correct": "label"}
    assert job_settings.settings("evaluate", config, JOB | {"policy": "oracle"}) == read


def test_a_policy_says_what_answers_last_or_the_policy_over_which_it_decides(config: dict[str, Any]) -> None:
    assert job_settings.settings("calibrate", config, JOB)["last"] == "backbone"
    policies = {
        "combined": {"name": "global", "score": None, "last": "combined", "steps": 3},
        "over": {"name": "risk", "score": None, "last": None, "path": "combined"},
        "own": {"name": "risk", "score": None, "last": "backbone", "path": "combined"},
    }
    for name, expected in {"combined": "combined", "over": "combined", "own": "backbone"}.items():
        chosen = job_settings.settings("evaluate", config | {"policies": policies}, JOB | {"policy": name})
        assert chosen["last"] == expected
        assert all(
            "last" not in chosen[block] and "score" not in chosen[block] for block in ("policy", "path") if block in chosen
        )


def test_a_checkpoint_has_keys_of_its_own(config: dict[str, Any]) -> None:
    brought = config | {"backbones": {"resnet18": config["backbones"]["resnet18"] | {"checkpoint": "weights.pt"}}}
    more = (
        job_settings.settings("train_backbone", brought, JOB).keys()
        - job_settings.settings("train_backbone", config, JOB).keys()
    )
    assert more == {"checkpoint_key", "expected_accuracy", "head", "last_layer"}


def test_a_rule_without_a_row_depends_on_no_key(config: dict[str, Any]) -> None:
    assert job_settings.settings("report", config, {"dataset": "digits"}) == {}


def test_methods_are_those_that_train_jointly_and_the_others(config: dict[str, Any]) -> None:
    joint, single = (job_settings.methods_that_train(config, joint).split("|") for joint in (True, False))
    assert {"ztw", "boostnet", "pteenet"} <= set(joint) and {"calexnet", "reference"} <= set(single)
    assert not set(joint) & set(single) and set(joint) | set(single) == set(config["methods"])
    assert job_settings.methods_that_train({"methods": {}}, joint=True) == "(?!)"


@pytest.mark.parametrize(
    ("device", "remote", "cluster", "expected"),
    [("cpu", True, True, False), ("cuda:1", False, False, True), ("mps", False, False, True), ("auto", True, True, True),
     ("auto", False, True, False), ("auto", True, False, False)],
)  # fmt: skip
def test_a_gpu_is_asked_for_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, device: str, remote: bool, cluster: bool, expected: bool
) -> None:
    monkeypatch.setattr(job_settings.shutil, "which", lambda name: None)
    monkeypatch.setattr(slurm, "has_gpus", lambda: cluster)
    assert job_settings.wants_gpu(device, remote) is expected


def workflow(snakefile: Path, files: list[Path], values: list[str], alone: bool = False) -> SimpleNamespace:
    return SimpleNamespace(
        main_snakefile=str(snakefile),
        overwrite_configfiles=files,
        config_settings=SimpleNamespace(replace_workflow_config=alone, config_args=values),
    )


def test_a_plain_command_has_no_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").touch()
    typed = command_line.read(workflow(tmp_path / "workflow/Snakefile", [], []), "config.yaml")
    assert (typed.layers, typed.where, typed.options) == (["config.yaml"], "config.yaml", "")


def test_options_are_those_that_were_typed_with_paths_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mine = tmp_path / "my own.yaml"
    typed = command_line.read(workflow(Path("/elsewhere/Snakefile"), [mine], ["device=cpu"]), "config.yaml")
    assert typed.layers == ["my own.yaml"] and typed.where == f"{mine} + --config"
    assert typed.options == " --snakefile /elsewhere/Snakefile --configfile 'my own.yaml' --config device=cpu"


def test_a_process_that_a_run_starts_knows_that_the_default_config_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake tells it the files, but not that they replace the default: its jobs would run with other settings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").touch()
    monkeypatch.setenv(command_line.ALONE, "")  # so that it is taken back afterwards
    monkeypatch.delenv(command_line.ALONE)
    first = command_line.read(workflow(tmp_path / "workflow/Snakefile", [tmp_path / "a.yaml"], [], alone=True), "config.yaml")
    started = command_line.read(workflow(tmp_path / "workflow/Snakefile", [tmp_path / "a.yaml"], []), "config.yaml")
    assert first == started
    assert started.layers == ["a.yaml"] and started.options == " --replace-workflow-config --configfile a.yaml"
