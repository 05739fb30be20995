"""Entries that state what differs from another: what they become, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, run_snakemake

from calex import config
from calex.errors import CalexError

SCHEMA = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())


def test_no_line_of_a_shipped_config_is_long() -> None:
    for path in [*(REPOSITORY / "config").glob("*.yaml"), REPOSITORY / "tests/tiny.yaml"]:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            assert len(line) <= 128, f"{path.name}, line {number}"


def test_blocks_merge_lists_replace_and_another_plugin_replaces_its_block() -> None:
    methods = {
        "a": {"head": {"name": "prototype", "prototypes": 32, "temperature": 2.0}, "policies": ["x", "y"], "score": "margin"},
        "b": {"extends": "a", "head": {"prototypes": 8}, "policies": ["z"]},
        "c": {"extends": "b", "head": {"name": "ztw"}, "score": ["margin", "entropy"]},
    }
    assert config.merged([{"methods": methods}])["methods"] == {
        "a": methods["a"],
        "b": {"head": {"name": "prototype", "prototypes": 8, "temperature": 2.0}, "policies": ["z"], "score": "margin"},
        "c": {"head": {"name": "ztw"}, "policies": ["z"], "score": ["margin", "entropy"]},
    }
    assert methods["b"] == {"extends": "a", "head": {"prototypes": 8}, "policies": ["z"]}  # nothing given is changed


def test_children_follow_a_parent_that_a_later_file_changes() -> None:
    base = {"methods": {"a": {"recipe": {"name": "branchwise", "epochs": 30}}, "b": {"extends": "a", "score": "margin"}}}
    over = {"methods": {"a": {"recipe": {"epochs": 8}}}}
    assert config.merged([base, over])["methods"]["b"] == {"recipe": {"name": "branchwise", "epochs": 8}, "score": "margin"}
    # A child's own words count more than its parent's, whichever file they stand in.
    own = {"methods": {"b": {"recipe": {"epochs": 3}}}}
    assert config.merged([own, base, over])["methods"]["b"]["recipe"]["epochs"] == 3


def test_a_later_file_may_name_another_plugin_than_the_parent() -> None:
    base = {
        "methods": {"a": {"target": {"name": "kl", "temperature": 4.0}}, "b": {"extends": "a", "target": {"temperature": 2.0}}}
    }
    for target in ({"name": "mix", "alpha": 0.1}, {"name": "labels"}):
        assert config.merged([base, {"methods": {"b": {"target": target}}}])["methods"]["b"] == {"target": target}
    other = {"methods": {"b": {"extends": None, "target": {"name": "kl"}}}}
    assert config.merged([base, other])["methods"]["b"] == {"target": {"name": "kl", "temperature": 2.0}}
    assert config.merged([base, {"methods": {"c": {"score": "margin"}, "b": {"extends": "c"}}}])["methods"]["b"] == {
        "score": "margin", "target": {"temperature": 2.0},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"m": "calexnat"}, "methods.m.extends: unknown name 'calexnat', did you mean 'calexnet'?"),
        ({"m": "m"}, "methods.m.extends: goes in a circle, m → m; one of them must state all of itself"),
        ({"m": "n", "n": "o", "o": "m"}, "methods.m.extends: goes in a circle, m → n → o → m; one of them"),
        ({"m": "n", "n": "o", "o": "n"}, "methods.n.extends: goes in a circle, n → o → n; one of them"),
        ({"m": "n", "n": "nobody"}, "methods.n.extends: unknown name 'nobody', known: "),
        ({"m": ["calexnet"]}, "methods.m.extends: expected the name of an entry of methods, got ['calexnet']"),
        ({"m": 3}, "methods.m.extends: expected the name of an entry of methods, got 3"),
    ],
)
def test_a_parent_that_cannot_be_is_one_line(tiny_config: dict[str, Any], entries: dict[str, Any], said: str) -> None:
    for name, parent in entries.items():
        tiny_config["methods"][name] = {"extends": parent}
    for content in (tiny_config, config.merged([tiny_config])):
        with pytest.raises(CalexError) as error:
            config.validated(content, SCHEMA, "mine.yaml")
        assert str(error.value).startswith(f"mine.yaml: {said}"), error.value
        assert "\n" not in str(error.value)


def test_datasets_and_backbones_extend_too(tiny_config: dict[str, Any]) -> None:
    tiny_config["datasets"]["wide"] = {"extends": "digits", "input_size": 16, "backbones": ["deep"]}
    tiny_config["backbones"]["deep"] = {"extends": "resnet18", "network": "resnet34"}
    whole = config.validated(tiny_config, SCHEMA, "mine.yaml")
    assert whole["datasets"]["wide"] == whole["datasets"]["digits"] | {"input_size": 16, "backbones": ["deep"]}
    assert whole["backbones"]["deep"] == whole["backbones"]["resnet18"] | {"network": "resnet34"}
    tiny_config["policies"]["cpm_full"] |= {"extends": "cpm_survivors"}
    with pytest.raises(CalexError, match=r"policies\.cpm_full: unknown key 'extends'"):
        config.validated(tiny_config, SCHEMA, "mine.yaml")


def test_a_fault_that_children_inherit_is_told_once(tiny_config: dict[str, Any]) -> None:
    tiny_config["methods"]["child"] = {"extends": "calexnet"}
    tiny_config["methods"]["calexnet"]["score"] = "margn"
    with pytest.raises(
        CalexError, match=r"^mine\.yaml: methods\.calexnet\.score: unknown name 'margn', [^\n]*\(also: child\)$"
    ):
        config.validated(tiny_config, SCHEMA, "mine.yaml")
    tiny_config["methods"]["calexnet"]["hed"] = {}
    with pytest.raises(CalexError, match=r"methods\.calexnet: unknown key 'hed'[^\n]*\(also: child\)$"):
        config.validated(tiny_config, SCHEMA, "mine.yaml")


def test_the_plan_is_that_of_entries_written_out(tmp_path: Path, tiny_config: dict[str, Any]) -> None:
    def commands(*config: Path) -> list[str]:
        done = run_snakemake(tmp_path, "results/pareto_digits.html", "-n", "--printshellcmds", config=config)
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(line for line in done.stdout.splitlines() if line.startswith("Shell command: python -m calex"))

    written_out = commands(REPOSITORY / "tests/tiny.yaml")
    reference = tiny_config["methods"]["reference"]
    tiny_config["methods"]["reference"] = {
        "extends": "calexnet",
        **{key: reference[key] for key in ("target", "weighting", "policies")},
    }
    tiny_config["datasets"]["again"] = {"extends": "digits", "methods": ["calexnet"]}
    mine, over = tmp_path / "mine.yaml", tmp_path / "over.yaml"
    mine.write_text(yaml.safe_dump(tiny_config))
    without = [line for line in written_out if "calex pareto" not in line]  # which tells by what command it was made
    assert [line for line in commands(mine) if "calex pareto" not in line] == without and len(without) > 15
    # And a change of the parent reaches its child's jobs.
    over.write_text(yaml.safe_dump({"methods": {"calexnet": {"recipe": {"epochs": 2}}}}))
    assert len([line for line in commands(mine, over) if "train-branch" in line and '"epochs":2' in line]) == 6
