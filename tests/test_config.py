"""The config: defaults are filled in, and what does not fit is said in one line."""

from __future__ import annotations

import copy
import math
import random
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from calex import config, plugins
from calex.errors import CalexError
from calex.plugins.ranges import misfit
from calex.system.files import canonical_json

SCHEMA = REPOSITORY / "workflow/schemas/config.schema.yaml"


@pytest.fixture
def tiny_config() -> dict[str, Any]:
    return yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())


def checked(content: dict[str, Any]) -> dict[str, Any]:
    return config.validated(content, config.read_yaml(SCHEMA), "mine.yaml")


def test_the_shipped_config_is_valid_and_complete() -> None:
    full = checked(config.read_yaml(REPOSITORY / "config/config.yaml"))
    assert full["methods"]["calexnet"]["variants"]["default"]["target"] == {"name": "kl", "temperature": 4.0}
    assert full["methods"]["reference"]["variants"]["default"]["weighting"] == {"name": "uniform"}
    assert full["threads"] == {"train_backbone": 2, "cache_features": 2, "train_branch": 1, "benchmark": 2}
    assert full["datasets"]["digits"]["training"]["momentum"] == 0.9
    assert full["policies"]["cpm_full"] == {
        "name": "cpm",
        "score": None,
        "last": None,
        "population": "all",
        "min_support": 5,
        "steps": 40,
    }


def study(*names: str) -> dict[str, Any]:
    layers = [config.read_yaml(REPOSITORY / "config" / name) for name in ("config.yaml", *names)]
    layers.append({"backbones": {"lite0": {"checkpoint": __file__}}} if "emoji.yaml" in names else {})  # some file
    return config.validated(config.merged(layers), config.read_yaml(SCHEMA), names[-1])


@pytest.mark.parametrize("name", ["fashion_mnist", "emoji"])
def test_every_method_of_a_study_has_as_many_variants_and_epochs(name: str) -> None:
    """Its settings are all that a method's curve may choose among."""
    full = study(f"{name}.yaml")
    names = full["datasets"][name]["methods"]
    methods = [full["methods"][name] for name in names]
    # λ of PTEEnet is no setting to be tuned: it says what a FLOP is worth, and its curve is made of several.
    assert {len(method["variants"]) for name, method in zip(names, methods, strict=True) if "pteenet" not in name} == {1}
    recipes = [variant["recipe"] for method in methods for variant in method["variants"].values()]
    assert len({recipe["epochs"] for recipe in recipes if recipe["name"] != "e2cm"}) == 1  # which learns nothing


@pytest.mark.parametrize("dataset", ["fashion_mnist", "emoji"])
def test_a_factor_is_one_changed_option(dataset: str) -> None:
    full = study(f"{dataset}.yaml", "factors.yaml", f"{dataset}_factors.yaml")

    def options(method: str) -> dict[str, Any]:
        (variant,) = full["methods"][method]["variants"].values()
        return {
            f"{block}.{key}": value
            for block, content in variant.items()
            if block != "confidence"  # follows from the scores
            for key, value in (content.items() if isinstance(content, dict) else [("", content)])
        }

    base, *others = full["datasets"][dataset]["methods"]
    assert base == "calexnet_tuned" and full["seeds"] == [0, 1, 2]
    for other in others:
        blocks = {key.split(".")[0] for key, value in (options(other).items() ^ options(base).items())}
        changed = {key for key, value in options(other).items() if options(base).get(key, value) != value}
        # A block of another name has other options: then the name is what changed.
        assert len(blocks) == 1 and (len(changed) == 1 or f"{blocks.pop()}.name" in changed), other


def test_views_and_holdout_compare_with_the_study() -> None:
    full = study("fashion_mnist.yaml", "factors.yaml", "fashion_mnist_factors.yaml")
    factors, views, holdout = (full["datasets"][f"fashion_mnist{end}"] for end in ("", "_views", "_holdout"))
    study_ = study("fashion_mnist.yaml")["datasets"]["fashion_mnist"]
    for dataset in (factors, views, holdout):
        assert all(dataset[key] == study_[key] for key in ("source", "input_size", "augment"))
    assert (views["views"], factors["views"], holdout["head_holdout"]) == (2, 1, 0.2)
    for dataset in (factors, holdout):
        assert dataset["training"] == study_["training"] and dataset["backbones"] == study_["backbones"]
    same = full["backbones"]["resnet18_same"]
    assert same | {"checkpoint": None} == full["backbones"]["resnet18_small"]
    assert views["backbones"] == ["resnet18_same"]


def test_defaults_do_not_touch_the_given_config(tiny_config: dict[str, Any]) -> None:
    before = yaml.safe_dump(tiny_config)
    checked(tiny_config)
    assert yaml.safe_dump(tiny_config) == before


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("methodz", {}, "unknown key 'methodz', did you mean 'methods'?"),
        (
            "policies.bounded",
            {"name": "cats", "last": "combined"},
            "policies.bounded.last: 'cats' promises something about the backbone's answers, so the backbone must answer last",
        ),
        (
            "policies.promise",
            {"name": "risk", "path": "cpm_full", "last": "combined"},
            "policies.promise.last: 'risk' promises something",
        ),
        ("policies.cpm_full.last", "combine", "policies.cpm_full.last: unknown name 'combine', did you mean 'combined'?"),
        ("methods.calexnet.hed", {"name": "prototype"}, "methods.calexnet: unknown key 'hed', did you mean 'head'?"),
        (
            "methods.calexnet.head.name",
            "prototip",
            "methods.calexnet.head.name: unknown name 'prototip', did you mean 'prototype'?",
        ),
        ("methods.calexnet.head.prototipes", 4, "methods.calexnet.head: unknown key 'prototipes', did you mean 'prototypes'?"),
        (
            "methods.calexnet.score",
            "confidance",
            "methods.calexnet.score: unknown name 'confidance', did you mean 'confidence'?",
        ),
        (
            "methods.calexnet.policies",
            ["cpm_ful"],
            "methods.calexnet.policies: unknown name 'cpm_ful', did you mean 'cpm_full'?",
        ),
        ("datasets.digits.training.epochs", 0, "datasets.digits.training.epochs: 0 is less than the minimum"),
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
            "methods.calexnet.target.temperature: expected something like 1.0",
        ),
        (
            "policies.cpm_full.population",
            "everyone",
            "policies.cpm_full.population: unknown value 'everyone', known: all, survivors",
        ),
        ("policies.cpm_full.score", "entropi", "policies.cpm_full.score: unknown name 'entropi', did you mean 'entropy'?"),
        (
            "policies.cpm_full.score",
            3,
            "policies.cpm_full.score: expected a text or null (a score, or null for the method's own), got 3",
        ),
        ("policies.oracle", {"name": "cpm"}, "policies.oracle: this name is taken"),
        ("policies.Cpm", {"name": "cpm"}, "policies: 'Cpm' is no name"),
        ("datasets.digits.ours", ["calexnat"], "datasets.digits.ours: unknown name 'calexnat', did you mean 'calexnet'?"),
        (
            "backbones.resnet18.checkpoint",
            "results/digits/resnet50/backbone.safetensors",
            "backbones.resnet18.checkpoint: no such file 'results/digits/resnet50/backbone.safetensors'; give the path of the",
        ),
        ("seeds", [], "seeds: [] should be non-empty"),
        ("device", "gpu", "device: unknown value 'gpu'; use auto, cpu, mps, cuda or cuda:N"),
        ("device", "cuda:", "device: unknown value 'cuda:'"),
        ("seeds", [2**32], "seeds.0: 4294967296 is greater than the maximum of 4294967295"),
        ("seeds", ["0"], "seeds.0: expected a whole number, got '0'; this is text: write numbers without quotes, and lists"),
        (
            "datasets.digits.training.learning_rate",
            "1e-3",
            "datasets.digits.training.learning_rate: expected a number, got '1e-3'; YAML reads this as text: write 0.001 or 1.0e-3",
        ),
        ("datasets.digits.training.learning_rate", math.inf, "datasets.digits.training.learning_rate: inf is not finite"),
        ("datasets.digits.training.weight_decay", math.nan, "datasets.digits.training.weight_decay: nan is not finite"),
        (
            "methods.calexnet.recipe.learning_rate",
            "1e-3",
            "methods.calexnet.recipe.learning_rate: expected something like 0.01",
        ),
        ("methods.calexnet.recipe.learning_rate", 0, "methods.calexnet.recipe.learning_rate: 0 is not more than 0"),
        ("methods.calexnet.recipe.epochs", 0, "methods.calexnet.recipe.epochs: 0 is less than 1"),
        ("methods.calexnet.recipe.batch_size", 1, "methods.calexnet.recipe.batch_size: 1 is less than 2"),
        ("methods.calexnet.head.prototypes", 0, "methods.calexnet.head.prototypes: 0 is less than 1"),
        ("methods.calexnet.head.temperature", math.inf, "methods.calexnet.head.temperature: inf is not finite"),
        ("methods.calexnet.head.temperature", math.nan, "methods.calexnet.head.temperature: nan is not a number"),
        ("methods.calexnet.weighting.train_margin", 1.5, "methods.calexnet.weighting.train_margin: 1.5 is more than 1"),
        ("methods.calexnet.weighting.sharpness", -math.inf, "methods.calexnet.weighting.sharpness: -inf is less than 0"),
        ("methods.calexnet.weighting.min_support", "inf", "methods.calexnet.weighting.min_support: expected something like 5"),
        ("device", 3, "device: expected a text (auto, cpu, mps, cuda or cuda:N), got 3"),
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


def test_a_checkpoint_may_be_what_the_workflow_trains(tiny_config: dict[str, Any]) -> None:
    trained = "results/digits/resnet18/backbone.safetensors"
    tiny_config["backbones"]["same"] = {**tiny_config["backbones"]["resnet18"], "checkpoint": trained}
    assert checked(tiny_config)["backbones"]["same"]["checkpoint"] == trained


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: [1,\nb: {")
    with pytest.raises(CalexError, match=r"c\.yaml: not valid YAML"):
        config.read_yaml(tmp_path / "c.yaml")
    (tmp_path / "c.yaml").write_text("just words")
    with pytest.raises(CalexError, match="holds no keys"):
        config.read_yaml(tmp_path / "c.yaml")


def test_an_overlay_keeps_what_it_does_not_say() -> None:
    base = {"device": "auto", "methods": {"a": {"head": {"name": "prototype", "prototypes": 32}, "policies": ["x", "y"]}}}
    over = {"methods": {"a": {"head": {"name": "prototype", "temperature": 2.0}, "policies": ["z"]}, "b": {"score": "margin"}}}
    assert config.merged([base, over, {"device": "cpu"}]) == {
        "device": "cpu",
        "methods": {
            "a": {"head": {"name": "prototype", "prototypes": 32, "temperature": 2.0}, "policies": ["z"]},
            "b": {"score": "margin"},
        },
    }
    assert base["methods"]["a"]["policies"] == ["x", "y"]  # nothing given is changed
    assert config.merged([base, {"methods": None}])["methods"] is None


def test_a_block_of_another_plugin_replaces_the_one_below() -> None:
    base = {"methods": {"a": {"head": {"name": "prototype", "prototypes": 32}}, "name": {"score": "margin"}}}
    assert config.merged([base, {"methods": {"a": {"head": {"name": "conv"}}}}])["methods"]["a"]["head"] == {"name": "conv"}
    # Without a name it is the same plugin; a method that is called `name` is no plugin's name.
    assert config.merged([base, {"methods": {"a": {"head": {"prototypes": 4}}}}])["methods"]["a"]["head"]["prototypes"] == 4
    assert set(config.merged([base, {"methods": {"name": {"score": "entropy"}}}])["methods"]) == {"a", "name"}


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[1, inf)", [1, 2.5, 10**400], [0.999, math.inf, math.nan]),
        ("(0, inf)", [1e-300, 7], [0, -1, math.inf]),
        ("(0, 1]", [0.5, 1], [0, 1.5]),
        ("[0, 1)", [0, 0.999], [1, -1e-9]),
        ("[0, inf]", [0, math.inf], [-math.inf, -1]),
        ("(-inf, inf)", [-1e300, 0], [math.inf, -math.inf, math.nan]),
        ("[-2, 1]", [-2, 1], [-2.001, 1.001]),
    ],
)
def test_intervals(interval: str, inside: list[float], outside: list[float]) -> None:
    assert [value for value in inside if misfit(value, interval)] == []
    assert [value for value in outside if not misfit(value, interval)] == []


@pytest.mark.parametrize(
    ("recipe", "said"),
    [({"name": "jei_dnn", "epochs": 5}, "warmup: 10 of epochs: 5"), ({"name": "pteenet", "warmup": 30}, "warmup: 30 of")],
)
def test_a_warmup_that_leaves_nothing_is_refused(tiny_config: dict[str, Any], recipe: dict[str, Any], said: str) -> None:
    """Gates and confidences that never learn would still be read as scores."""
    change = {"recipe": recipe, "target": {"name": "labels"}, "weighting": {"name": "uniform"}}
    tiny_config["methods"]["calexnet"] |= change
    with pytest.raises(CalexError, match=f"methods.calexnet.recipe: {said}") as caught:
        checked(tiny_config)
    assert "\n" not in str(caught.value)
    recipe["warmup"] = 4
    checked(tiny_config)


def test_what_is_no_interval_is_refused() -> None:
    for text in ("0, 1", "[0; 1]", "[low, 1]", ""):
        with pytest.raises(ValueError):
            misfit(0, text)


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in plugins.KINDS for name in plugins.names(kind)])
def test_every_number_of_a_plugin_has_a_range_that_holds_its_default(kind: str, name: str) -> None:
    declared = plugins.constants(kind, name)
    options, ranges = declared.get("OPTIONS", {}), declared.get("RANGES", {})
    assert set(ranges) == {key for key, value in options.items() if type(value) in (int, float)}
    for key, interval in ranges.items():
        assert misfit(options[key], interval) is None, key


@pytest.mark.parametrize("given", [math.inf, "inf"])
def test_an_infinity_that_means_something_travels_as_a_word(given: object) -> None:
    block = plugins.complete("weightings", {"name": "survivors", "sharpness": given}, "weighting")
    assert '"sharpness":"inf"' in canonical_json(block)
    assert plugins.complete("weightings", block, "weighting") == block
    assert plugins.options_of(block)["sharpness"] == math.inf


def test_a_policy_asks_no_method_for_a_score_that_its_exits_do_not_hold(tiny_config: dict[str, Any]) -> None:
    tiny_config["policies"]["sure"] = {"name": "cpm", "score": "confidence"}
    tiny_config["methods"]["reference"] |= {
        "recipe": {"name": "ztw"}, "target": {"name": "labels"}, "score": "margin", "policies": ["sure"],
    }  # fmt: skip
    with pytest.raises(
        CalexError, match=r"methods\.reference\.policies: sure: score: the recipe 'ztw' gives no score 'confidence'"
    ):
        checked(tiny_config)


def test_all_faults_are_told_at_once(tiny_config: dict[str, Any]) -> None:
    tiny_config |= {"devise": "cpu", "seedz": [0]}
    tiny_config["datasets"]["digits"] |= {"input_sise": 8, "viewz": 2}
    tiny_config["datasets"]["digits"]["training"]["epochs"] = 0
    tiny_config["methods"]["calexnet"]["head"] = {"name": "prototype", "prototipes": 4, "temperature": "hot"}
    tiny_config["methods"]["reference"]["target"] = {"name": "argmaks"}
    tiny_config["policies"]["cpm_full"]["steps"] = 0
    tiny_config["policies"]["cpm_survivors"]["score"] = "margn"
    del tiny_config["backbones"]["resnet18"]["network"], tiny_config["backbones"]["resnet18"]["taps"]
    with pytest.raises(CalexError) as error:
        checked(tiny_config)
    first, *lines = str(error.value).splitlines()
    assert first == "mine.yaml: 12 faults"
    assert len(set(lines)) == len(lines) == 12
    for said in (
        "unknown key 'devise', did you mean 'device'?",
        "unknown key 'seedz', did you mean 'seeds'?",
        "datasets.digits: unknown key 'input_sise'",
        "datasets.digits: unknown key 'viewz'",
        "datasets.digits.training.epochs: 0 is less than",
        "backbones.resnet18: the key 'network' is missing",
        "backbones.resnet18: the key 'taps' is missing",
        "methods.calexnet.head: unknown key 'prototipes', did you mean 'prototypes'?",
        "methods.calexnet.head.temperature: expected something like 1.0, got 'hot'",
        "methods.reference.target.name: unknown name 'argmaks'",
        "policies.cpm_full.steps: 0 is less than 1",
        "policies.cpm_survivors.score: unknown name 'margn'",
    ):
        assert [line for line in lines if line.strip().startswith(said)], said


def test_a_fault_of_several_variants_is_told_once(tiny_config: dict[str, Any]) -> None:
    tiny_config["methods"]["calexnet"]["head"] = {"name": "prototype", "prototypes": [4, 8], "temperature": "hot"}
    with pytest.raises(CalexError, match=r"^mine\.yaml: methods\.calexnet\.head\.temperature: [^\n]*$"):
        checked(tiny_config)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("datasets", ["digits"], "datasets: expected a block of keys, got a list, ['digits']"),
        ("methods", None, "methods: expected a block of keys, got nothing; fill it in or take the key out"),
        ("datasets.digits.training", [1], "datasets.digits.training: expected a block of keys, got a list, [1]"),
        ("methods.calexnet.head", "prototype", "methods.calexnet.head: expected a block of keys (a block with the key `name`)"),
        ("seeds", 0, "seeds: expected a list (whole numbers, each once), got 0"),
        ("datasets.digits.methods", [True], "datasets.digits.methods.0: expected a text, got True; YAML reads yes, no, on and"),
        ("datasets.digits.augment.shift", True, "datasets.digits.augment.shift: expected a whole number, got True; YAML reads"),
        (
            "features.precision",
            False,
            "features.precision: unknown value 'False', known: float16, float32; YAML reads",
        ),
    ],
)
def test_a_value_of_another_kind_says_what_is_expected(tiny_config: dict[str, Any], path: str, value: Any, said: str) -> None:
    test_what_does_not_fit_is_one_line(tiny_config, path, value, said)


def test_a_tilde_is_ones_home_in_every_path(
    tiny_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "weights.pt").write_bytes(b"")
    tiny_config["backbones"]["resnet18"]["checkpoint"] = "~/weights.pt"
    tiny_config["datasets"]["digits"]["source"] = {"name": "imagefolder", "folder": "~/photos"}
    tiny_config["benchmarks"] = {"folder": "~"}
    whole = checked(tiny_config)
    assert whole["backbones"]["resnet18"]["checkpoint"] == f"{tmp_path}/weights.pt"
    assert whole["datasets"]["digits"]["source"]["folder"] == f"{tmp_path}/photos"
    assert whole["benchmarks"]["folder"] == str(tmp_path)
    tiny_config["datasets"]["digits"]["source"]["folder"] = "~nobody_here/photos"
    tiny_config["benchmarks"]["folder"] = "~nobody_here"
    with pytest.raises(CalexError) as error:
        checked(tiny_config)
    for place in ("datasets.digits.source.folder: '~nobody_here/photos'", "benchmarks.folder: '~nobody_here'"):
        assert f"{place} begins with the home folder of an unknown user; give the absolute path" in str(error.value)


def test_every_key_that_is_a_path_is_marked() -> None:
    """A new one cannot be forgotten: texts that may be left out are names or paths, and these are the names."""
    schema = yaml.safe_load(SCHEMA.read_text())
    marked: dict[str, bool] = {}

    def walk(part: dict[str, Any]) -> None:
        for key, value in part.get("properties", {}).items():
            if isinstance(value.get("type"), list) and "string" in value["type"] and "null" in value["type"]:
                marked[key] = value.get("format") == "path"
            walk(value)

    for part in [schema, *schema["properties"].values(), *schema["$defs"].values()]:
        walk(part)
    assert {key for key, path in marked.items() if not path} == {"score", "last", "checkpoint_key", "last_layer", "weights"}
    assert {"checkpoint", "folder"} <= {key for key, path in marked.items() if path}
    for kind in plugins.KINDS:
        for name in plugins.names(kind):
            declared = plugins.constants(kind, name)
            missing = {key for key, default in declared.get("OPTIONS", {}).items() if default is None and key != "md5"}
            assert missing == set(declared.get("PATHS", [])), (kind, name)


JUNK: list[Any] = [
    None, True, -1, 0, math.inf, math.nan, "x", "a.b", "~nobody_here/x", [], [1], ["a"], [[1]], [{}], {}, {"name": 3}, {"name": "x"},
    {"name": ["prototype"]}, {"name": "json.tool"}, {"name": "a..b"}, {"extends": 3}, {"extends": "digits"}, {"a": {"b": 1}},
]  # fmt: skip


def places(value: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a config."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place, *(below for key, part in inside for below in places(part, (*place, key)))]


@pytest.mark.parametrize("seed", range(60))
def test_whatever_stands_in_a_config_is_taken_or_refused_in_words(tiny_config: dict[str, Any], seed: int) -> None:
    """Values of every other kind, wherever there is one, several at a time."""
    choose = random.Random(seed)
    for place in choose.sample(places(tiny_config)[1:], choose.choice([1, 1, 2, 5])):
        block: Any = tiny_config
        for key in place[:-1]:
            block = block[key] if isinstance(block, dict) and key in block else {}
        if isinstance(block, dict) and block:
            block[place[-1]] = copy.deepcopy(choose.choice(JUNK))
    try:
        checked(config.merged([tiny_config]))
    except CalexError as error:
        assert str(error).startswith("mine.yaml: ")
