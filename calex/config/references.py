"""What the entries of a config say of one another, of plugins and of files: every name must refer to something."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calex import plugins, recipes
from calex.backbones import own as own_network
from calex.errors import CalexError, Faults, suggestion
from calex.policies import check_last
from calex.simulation.scores import SCORES
from calex.workflow import plan
from calex.workflow.reading import READING, last_of, score_of, without_reading

# Which kind of plugin each block of a method names.
METHOD = {"recipe": "recipes", "head": "heads", "target": "targets", "weighting": "weightings"}

# Names that mean something else in tables and file names.
RESERVED = {"methods": {"backbone", "cascade", "features"}, "policies": {"oracle", "clairvoyant", "none"}}


def complete(config: dict[str, Any], broken: set[tuple[str, str]]) -> Faults:
    """Complete each plugin's block, give each method as its policies and its variants; returns all that does not fit.

    broken: entries whose faults are known already: (section, name). They count as names and are not looked into.
    """
    faults = Faults()
    for section, reserved in RESERVED.items():
        faults.extend(
            f"{section}.{name}: this name is taken; choose another" for name in sorted(reserved & set(config[section]))
        )

    def entries(section: str) -> dict[str, Any]:
        return {name: entry for name, entry in config[section].items() if (section, name) not in broken}

    backbones, policies = entries("backbones"), entries("policies")
    trained = {
        f"results/{name}/{entry}/backbone.safetensors"
        for name, dataset in entries("datasets").items()
        for entry in dataset["backbones"]
        if entry in backbones and not _given(backbones[entry])
    }
    for name, dataset in entries("datasets").items():
        _dataset(f"datasets.{name}", dataset, config, backbones, faults)
    for name, backbone in backbones.items():
        _backbone(f"backbones.{name}", backbone, trained, faults)
    for name, method in entries("methods").items():
        config["methods"][name] = _method(f"methods.{name}", method, config, policies, faults)
    for name, policy in policies.items():
        config["policies"][name] = _policy(f"policies.{name}", policy, policies, faults)
    return faults


def _known(name: str, known: Any, where: str) -> None:
    if name not in known:
        raise CalexError(f"{where}: unknown name '{name}', {suggestion(name, known)}")


def _dataset(where: str, dataset: dict[str, Any], config: dict[str, Any], backbones: Mapping[str, Any], faults: Faults) -> None:
    with faults.gather():
        dataset["source"] = plugins.complete("datasets", dataset["source"], f"{where}.source")
    for key, section in (("backbones", "backbones"), ("methods", "methods"), ("ours", "methods")):
        for entry in dataset[key]:
            with faults.gather():
                _known(entry, config[section], f"{where}.{key}")
    if all(value is None for value in dataset["deploy"].values()):
        faults.append(f"{where}.deploy: asks for nothing; give max_flops, min_accuracy or max_drop")
    for entry in dataset["backbones"]:
        if dataset["head_holdout"] and entry in backbones and _given(backbones[entry]) and backbones[entry]["head"] is None:
            faults.append(
                f"{where}.head_holdout: the backbone '{entry}' is not trained here and may have seen every image; set it to 0"
            )


def _given(backbone: Mapping[str, Any]) -> bool:
    """Whether a backbone has weights already."""
    return backbone["checkpoint"] is not None or backbone["weights"] is not None


def _backbone(where: str, backbone: dict[str, Any], trained: set[str], faults: Faults) -> None:
    if own_network.is_own(backbone["network"]):
        try:
            own_network.source_hashes(backbone["network"])
        except CalexError as error:
            faults.append(f"{where}.{error}")
    checkpoint = backbone["checkpoint"]
    for key in ("checkpoint_key", "expected_accuracy", "head"):
        if not (checkpoint if key == "checkpoint_key" else _given(backbone)) and backbone[key] is not None:
            faults.append(f"{where}.{key}: is of a checkpoint, and there is none; give one or remove the key")
    if backbone["weights"] is not None:
        for key, wrong, remedy in (
            ("checkpoint", checkpoint is not None, "torchvision publishes others; remove one of the two"),
            ("network", own_network.is_own(backbone["network"]), "torchvision has none of it; give a file in `checkpoint`"),
            (
                "stem",
                backbone["stem"] != "imagenet",
                "the published weights are of the stem imagenet; use that or remove `weights`",
            ),
        ):
            if wrong:
                faults.append(f"{where}.weights: with `{key}: {backbone[key]}`: {remedy}")
    if backbone["trained_on"] is None:
        backbone["trained_on"] = ["elsewhere"] if backbone["weights"] is not None or backbone["head"] is not None else ["train"]
    if backbone["last_layer"] is not None and backbone["head"] is None:
        faults.append(f"{where}.last_layer: is of a probe, and there is none; set `head: probe` or remove the key")
    if checkpoint is not None and checkpoint not in trained and not Path(checkpoint).is_file():
        faults.append(f"{where}.checkpoint: no such file '{checkpoint}'; give the path of the weights, or null to train")


def _method(
    where: str, method: dict[str, Any], config: dict[str, Any], policies: Mapping[str, Any], faults: Faults
) -> dict[str, Any]:
    for entry in method["policies"]:
        with faults.gather():
            _known(entry, config["policies"], f"{where}.policies")
    variants: dict[str, dict[str, Any]] = {}
    with faults.gather():
        variants = plan.variants(method, where)
    own = Faults()  # of several variants, which have much in common
    for variant in variants.values():
        before = len(own)
        for key, kind in METHOD.items():
            with own.gather():
                variant[key] = plugins.complete(kind, variant[key], f"{where}.{key}")
        with own.gather():
            _known(variant["score"], SCORES, f"{where}.score")
        with own.gather():
            _known(variant["correct"], ("label", "backbone"), f"{where}.correct")
        if len(own) == before:
            used = {name: policies[name] for name in method["policies"] if name in policies}
            scores = {name: score_of({}, policy, policies.get(policy.get("path"))) for name, policy in used.items()}
            _recipe(where, variant, scores, own)
            # Read by nobody, a confidence output is not trained.
            variant["confidence"] = "confidence" in {
                variant["score"],
                *(score or variant["score"] for score in scores.values()),
            }
    faults.extend(dict.fromkeys(own))
    return {"policies": method["policies"], "variants": variants}


def _recipe(where: str, variant: dict[str, Any], policies: Mapping[str, str | None], faults: Faults) -> None:
    """Check what a recipe asks of the other parts of its method."""
    recipe = variant["recipe"]["name"]
    with faults.gather():
        recipes.check_warmup(recipe, variant["recipe"], f"{where}.recipe")
    with faults.gather():
        recipes.check_target(recipe, variant["target"]["name"], f"{where}.target")
    with faults.gather():
        recipes.check_score(recipe, variant["score"], f"{where}.score")
    for name, score in policies.items():
        if score in SCORES:  # what is no score is an error of the policy
            with faults.gather():
                recipes.check_score(recipe, score, f"{where}.policies: {name}: score")
    with faults.gather():
        recipes.check_weighting(recipe, variant["weighting"]["name"], f"{where}.weighting")


def _policy(where: str, policy: dict[str, Any], policies: Mapping[str, Any], faults: Faults) -> dict[str, Any]:
    reading, options = {key: policy[key] for key in READING}, without_reading(policy)
    for key, names in READING.items():
        with faults.gather():
            if reading[key] is not None:
                _known(reading[key], names, f"{where}.{key}")
    with faults.gather():
        options = plugins.complete("policies", options, where)
        if _decides_over_another(options["name"]):
            plain = [
                name
                for name, each in policies.items()
                if plugins.exists("policies", each["name"]) and not _decides_over_another(each["name"])
            ]
            _known(options["path"], plain, f"{where}.path")
        check_last(options["name"], last_of(policy, policies.get(str(options.get("path")), {})), f"{where}.last")
    return {**reading, **options}


def _decides_over_another(policy: str) -> bool:
    return bool(plugins.constants("policies", policy).get("OVER", False))
