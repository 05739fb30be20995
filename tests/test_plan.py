"""Lists in a method's block become its variants; a dataset's report holds every one of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY, planned, run_snakemake

from calex import config
from calex.errors import CalexError
from calex.workflow import plan

METHOD: dict[str, Any] = {
    "recipe": {"name": "branchwise", "epochs": 1},
    "head": {"name": "prototype", "temperature": 1.0},
    "target": {"name": "kl", "temperature": 4.0},
    "weighting": {"name": "uniform"},
    "score": "confidence",
    "shared_core": False,
    "policies": ["a", "b"],
}


def changed(**blocks: Any) -> dict[str, Any]:
    return METHOD | {key: METHOD[key] | value if isinstance(value, dict) else value for key, value in blocks.items()}


def test_a_method_without_lists_is_one_variant_and_policies_are_not_part_of_it() -> None:
    found = plan.variants(METHOD, "m")
    assert found == {"default": {key: value for key, value in METHOD.items() if key != "policies"}}


def test_lists_multiply_and_name_what_differs() -> None:
    found = plan.variants(changed(target={"temperature": [1.0, 4.0]}, score=["margin", "entropy"], recipe={"epochs": [3]}), "m")
    assert list(found) == [
        "score=margin,temperature=1",
        "score=margin,temperature=4",
        "score=entropy,temperature=1",
        "score=entropy,temperature=4",
    ]
    for name, variant in found.items():
        assert f"score={variant['score']}" in name
        assert f"temperature={variant['target']['temperature']:g}" in name
        assert variant["recipe"]["epochs"] == 3


def test_an_option_that_two_blocks_have_is_named_with_its_block() -> None:
    found = plan.variants(changed(target={"temperature": [1.0, 4.0]}, head={"temperature": [1.0, 0.5]}), "m")
    assert "head.temperature=0.5,target.temperature=4" in found
    assert len(found) == 4


def test_variants_share_nothing_that_a_change_could_reach() -> None:
    first, second = plan.variants(changed(target={"temperature": [1.0, 4.0]}), "m").values()
    assert first["target"] is not second["target"]
    assert METHOD["target"]["temperature"] == 4.0


@pytest.mark.parametrize(("values", "said"), [([1.0, 1], "temperature=1 comes twice"), ([], "an empty list")])
def test_lists_that_cannot_be_named_apart_are_refused(values: list[Any], said: str) -> None:
    with pytest.raises(CalexError, match=said):
        plan.variants(changed(target={"temperature": values}), "methods.m")


def test_a_list_of_names_is_refused() -> None:
    with pytest.raises(CalexError, match=r"methods\.m\.head\.name: a list"):
        plan.variants(changed(head={"name": ["prototype", "ztw"]}), "methods.m")


def test_a_value_that_cannot_name_a_folder_is_refused() -> None:
    with pytest.raises(CalexError, match=r"methods\.m: the variant file=a/b would be a folder's name, which holds no '/'"):
        plan.variants(changed(head={"file": ["a/b", "c"]}), "methods.m")
    assert set(plan.variants(changed(head={"file": "a/b"}), "methods.m")) == {"default"}


def test_each_value_of_a_list_is_checked() -> None:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    content["methods"]["calexnet"]["target"]["temperature"] = [4.0, "hot"]
    schema = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    with pytest.raises(CalexError, match=r"methods\.calexnet\.target\.temperature: expected something like 1\.0, got 'hot'"):
        config.validated(content, schema, "mine.yaml")


def test_the_workflow_trains_every_variant_and_pools_them_in_one_report(tmp_path: Path) -> None:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    content["methods"]["calexnet"]["target"]["temperature"] = [1.0, 4.0]
    (tmp_path / "two.yaml").write_text(yaml.safe_dump(content))
    done = run_snakemake(tmp_path, "results/pareto_digits.html", "-n", config=tmp_path / "two.yaml")
    assert done.returncode == 0, done.stderr
    jobs = planned(done.stdout)
    # Three branches of two variants and of the reference; weights for the second and third branch of two variants.
    assert jobs["train_branch"] == 9
    assert jobs["weigh_survivors"] == 4
    # One policy each and the oracle, which has no thresholds.
    assert jobs["calibrate"] == 3
    assert jobs["evaluate"] == 6


def test_ours_is_the_first_method_unless_the_dataset_says_otherwise():
    methods = {"a": {"policies": ["p", "q"]}, "b": {"policies": ["q", "p"]}}
    entry = {"methods": ["a", "b"], "ours": []}
    assert plan.ours({"datasets": {"d": entry}, "methods": methods}, "d") == [{"method": "a", "policy": "p"}]
    entry = {"methods": ["a", "b"], "ours": ["b", "a"]}
    assert plan.ours({"datasets": {"d": entry}, "methods": methods}, "d") == [
        {"method": "b", "policy": "q"},
        {"method": "a", "policy": "p"},
    ]
    entry = {"methods": ["b"], "ours": ["a"]}  # as an overlay leaves it that lists fewer methods
    assert plan.ours({"datasets": {"d": entry}, "methods": methods}, "d") == [{"method": "b", "policy": "q"}]


def test_a_backbone_may_take_what_another_entry_trains(tmp_path: Path) -> None:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    trained = "results/digits/resnet18/backbone.safetensors"
    content["backbones"]["same"] = {**content["backbones"]["resnet18"], "checkpoint": trained}
    content["datasets"]["again"] = {**content["datasets"]["digits"], "backbones": ["same"]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(content))
    done = run_snakemake(tmp_path, "results/again/same/backbone.safetensors", "-n", config=[tmp_path / "mine.yaml"])
    assert planned(done.stdout) == {"prepare_dataset": 2, "train_backbone": 2}
