"""The config: defaults are filled in, and what does not fit is said in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from calex import config
from calex.errors import CalexError

SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())


def checked(content: dict[str, Any]) -> dict[str, Any]:
    return config.validated(content, config.read_yaml(SCHEMA), "mine.yaml")


def test_the_shipped_config_is_valid_and_complete() -> None:
    full = config.load(REPOSITORY / "config/config.yaml", SCHEMA)
    assert full["methods"]["calexnet"]["variants"]["default"]["target"] == {"name": "kl", "temperature": 4.0}
    assert full["methods"]["reference"]["variants"]["default"]["weighting"] == {"name": "uniform"}
    assert full["threads"] == {"train_backbone": 2, "cache_features": 2, "train_branch": 1}
    assert full["datasets"]["digits"]["training"]["momentum"] == 0.9
    assert full["policies"]["cpm_full"] == {
        "name": "cpm",
        "score": None,
        "population": "all",
        "min_support": 5,
        "steps": 40,
    }


def test_defaults_do_not_touch_the_given_config(tiny_config: dict[str, Any]) -> None:
    before = yaml.safe_dump(tiny_config)
    checked(tiny_config)
    assert yaml.safe_dump(tiny_config) == before


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("methodz", {}, "unknown key 'methodz', did you mean 'methods'?"),
        ("datasets.digits.input_sise", 8, "datasets.digits: unknown key 'input_sise', did you mean 'input_size'?"),
        (
            "datasets.digits.backbones",
            ["resnet19"],
            "datasets.digits.backbones: unknown name 'resnet19', did you mean 'resnet18'?",
        ),
        (
            "datasets.digits.source",
            {"name": "digit"},
            "datasets.digits.source.name: unknown name 'digit', did you mean 'digits'?",
        ),
        ("datasets.digits.source", {"nam": "digits"}, "datasets.digits.source: the key 'name' is missing"),
        ("backbones.resnet18.stem", "cifer", "backbones.resnet18.stem: unknown value 'cifer', did you mean 'cifar'?"),
        ("backbones.resnet18.normalisation", {"mean": [0, 0, 0]}, "backbones.resnet18.normalisation: the key 'std' is missing"),
        (
            "methods.calexnet.target",
            {"name": "kl", "temperature": "hot"},
            "methods.calexnet.target.temperature: expected something like 4.0",
        ),
        (
            "policies.cpm_full.population",
            "everyone",
            "policies.cpm_full.population: unknown value 'everyone', known: all, survivors",
        ),
        ("policies.cpm_full.score", "entropi", "policies.cpm_full.score: unknown name 'entropi', did you mean 'entropy'?"),
        ("policies.cpm_full.score", 3, "policies.cpm_full.score: 3 is not of type 'string', 'null'"),
        ("policies.oracle", {"name": "cpm"}, "policies.oracle: this name is taken"),
        ("methods.Calex", {}, "methods: 'Calex' is no name"),
        ("seeds", [], "seeds: [] should be non-empty"),
        ("device", 3, "device: 3 is not of type 'string' (auto, cpu, cuda or cuda:N)"),
    ],
)
def test_what_does_not_fit_is_one_line(tiny_config: dict[str, Any], path: str, value: Any, said: str) -> None:
    *parents, last = path.split(".")
    block = tiny_config
    for key in parents:
        block = block[key]
    block[last] = value
    with pytest.raises(CalexError) as caught:
        checked(tiny_config)
    message = str(caught.value)
    assert message.startswith(f"mine.yaml: {said}"), message
    assert "\n" not in message


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: [1,\nb: {")
    with pytest.raises(CalexError, match=r"c\.yaml: not valid YAML"):
        config.read_yaml(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("just words")
    with pytest.raises(CalexError, match="holds no keys"):
        config.read_yaml(tmp_path / "c.yaml")
