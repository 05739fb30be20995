"""The config, checked before any job: unknown keys and names with their near miss, defaults filled in, one line an error."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from calex import networks, plan, plugins, recipes
from calex.errors import CalexError, suggestion, unquoted
from calex.scores import SCORES

# Which kind of plugin each block of a method names.
METHOD = {"recipe": "recipes", "head": "heads", "target": "targets", "weighting": "weightings"}

# Names that mean something else in tables and file names.
RESERVED = {"methods": {"backbone"}, "policies": {"oracle", "none"}}


def merged(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One config from several, the later over the earlier: blocks are merged key by key, all else is replaced.

    A block that names another plugin replaces the one below it: a head's options are not those of another head.
    """
    config: dict[str, Any] = {}
    for layer in layers:
        config = _over(config, layer)
    return config


def _over(below: Any, above: Any) -> Any:
    if not isinstance(above, Mapping):
        return above
    if not isinstance(below, Mapping) or _other_plugin(below.get("name"), above.get("name")):
        below = {}
    return {**below, **{key: _over(below.get(key), value) for key, value in above.items()}}


def _other_plugin(below: Any, above: Any) -> bool:
    return isinstance(below, str) and isinstance(above, str) and below != above


def validated(config: dict[str, Any], schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The config with every default present, and each method as its policies and its variants (`plan.variants`).

    `where` names it in errors (the path of its file).

    Raises CalexError for a key, a value or a name that does not fit, and for a checkpoint file that is not there.
    """
    try:
        problem = best_match(Draft202012Validator(schema).iter_errors(config))
        if problem is not None:
            raise CalexError(_said(problem, schema))
        config = at_home(_with_defaults(config, schema, schema))
        _check_names(config)
        for place, number in _numbers(config):
            if not math.isfinite(number):
                raise CalexError(f"{place}: {number} is not finite")
    except CalexError as error:
        raise CalexError(f"{where}: {error}") from None
    return config


def read_yaml(path: str | Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CalexError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise CalexError(f"{path}: holds no keys; see config/README.md")
    return content


def _said(problem: ValidationError, schema: dict[str, Any]) -> str:
    """A schema violation in one line: where, what, and the near miss."""
    where = ".".join(str(part) for part in problem.absolute_path)
    prefix = f"{where}: " if where else ""
    if problem.validator == "additionalProperties" and isinstance(problem.instance, dict):
        known = problem.schema.get("properties", {})
        unknown = sorted(set(problem.instance) - set(known))[0]
        return f"{prefix}unknown key '{unknown}', {suggestion(str(unknown), known)}"
    if problem.validator == "enum":
        known = [str(value) for value in problem.validator_value]
        return f"{prefix}unknown value '{problem.instance}', {suggestion(str(problem.instance), known)}"
    if problem.validator == "required":
        missing = [key for key in problem.validator_value if key not in problem.instance]
        return f"{prefix}the key '{missing[0]}' is missing"
    if problem.validator == "pattern" and "description" in problem.schema:
        return f"{prefix}unknown value '{problem.instance}'; use {problem.schema['description']}"
    if problem.validator == "pattern":
        return f"{prefix}'{problem.instance}' is no name; use lower-case letters, digits and _, beginning with a letter"
    expected = problem.schema.get("description", "")
    hint = unquoted(problem.instance) if problem.validator == "type" else ""
    return f"{prefix}{problem.message.splitlines()[0][:200]}" + (f" ({expected})" if expected else "") + hint


def _numbers(value: Any, place: str = "") -> Iterator[tuple[str, float]]:
    """Every fraction of a config, with its place: `datasets.digits.training.momentum`."""
    if isinstance(value, float):
        yield place, value
    elif isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _numbers(part, f"{place}.{key}" if place else str(key))


def _with_defaults(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """A copy of a valid value in which every key that the schema has a default for is present."""
    if "$ref" in schema:
        schema = root["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        filled = {key: part["default"] for key, part in properties.items() if "default" in part and key not in value} | value
        rest = others if isinstance(others, dict) else {}
        return {key: _with_defaults(part, properties.get(key, rest), root) for key, part in filled.items()}
    return value


def at_home(value: Any, place: str = "") -> Any:
    """A config in which every path that begins with `~` begins with a home folder instead."""
    if isinstance(value, dict):
        return {key: at_home(part, f"{place}.{key}" if place else str(key)) for key, part in value.items()}
    if isinstance(value, list):
        return [at_home(part, place) for part in value]
    if isinstance(value, str) and value.startswith("~"):
        path = os.path.expanduser(value)
        if path.startswith("~"):
            raise CalexError(f"{place}: '{value}' begins with the home folder of a user that there is not; give the whole path")
        return path
    return value


def _known(name: str, known: Any, where: str) -> None:
    if name not in known:
        raise CalexError(f"{where}: unknown name '{name}', {suggestion(name, known)}")


def _check_names(config: dict[str, Any]) -> None:
    """Complete each plugin's block, and see that every name refers to something."""
    for section, reserved in RESERVED.items():
        for name in reserved & set(config[section]):
            raise CalexError(f"{section}.{name}: this name is taken; choose another")
    for name, dataset in config["datasets"].items():
        where = f"datasets.{name}"
        dataset["source"] = plugins.complete("datasets", dataset["source"], f"{where}.source")
        for key, section in (("backbones", "backbones"), ("methods", "methods"), ("ours", "methods")):
            for entry in dataset[key]:
                _known(entry, config[section], f"{where}.{key}")
        for entry in dataset["backbones"]:
            if dataset["head_holdout"] and config["backbones"][entry]["checkpoint"] is not None:
                raise CalexError(
                    f"{where}.head_holdout: the backbone '{entry}' is a checkpoint, which may have seen every image; set it to 0"
                )
    trained = {
        f"results/{name}/{entry}/backbone.safetensors"
        for name, dataset in config["datasets"].items()
        for entry in dataset["backbones"]
        if config["backbones"][entry]["checkpoint"] is None
    }
    for name, backbone in config["backbones"].items():
        if networks.is_own(backbone["network"]):
            try:
                networks.sources(backbone["network"])
            except CalexError as error:
                raise CalexError(f"backbones.{name}.{error}") from None
        checkpoint = backbone["checkpoint"]
        for key in ("checkpoint_key", "expected_accuracy"):
            if checkpoint is None and backbone[key] is not None:
                raise CalexError(f"backbones.{name}.{key}: is of a checkpoint, and there is none; give one or remove the key")
        if checkpoint is not None and checkpoint not in trained and not Path(checkpoint).is_file():
            raise CalexError(
                f"backbones.{name}.checkpoint: no such file '{checkpoint}'; give the path of the weights, or null to train"
            )
    for name, method in config["methods"].items():
        where = f"methods.{name}"
        for entry in method["policies"]:
            _known(entry, config["policies"], f"{where}.policies")
        variants = plan.variants(method, where)
        for variant in variants.values():
            for key, kind in METHOD.items():
                variant[key] = plugins.complete(kind, variant[key], f"{where}.{key}")
            _known(variant["score"], SCORES, f"{where}.score")
            _known(variant["correct"], ("label", "backbone"), f"{where}.correct")
            recipe = variant["recipe"]["name"]
            recipes.check_target(recipe, variant["target"]["name"], f"{where}.target")
            recipes.check_score(recipe, variant["score"], f"{where}.score")
            for entry in method["policies"]:
                if (score := config["policies"][entry]["score"]) in SCORES:  # what is no score is told below
                    recipes.check_score(recipe, score, f"{where}.policies: {entry}: score")
            recipes.check_weighting(recipe, variant["weighting"]["name"], f"{where}.weighting")
        config["methods"][name] = {"policies": method["policies"], "variants": variants}
    for name, policy in config["policies"].items():
        where, score = f"policies.{name}", policy["score"]
        if score is not None:
            _known(score, SCORES, f"{where}.score")
        options = {key: value for key, value in policy.items() if key != "score"}  # any policy has it: no plugin's option
        config["policies"][name] = {"score": score, **plugins.complete("policies", options, where)}
