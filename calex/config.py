"""The config, checked before any job: unknown keys and names with their near miss, defaults filled in, one line an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match

from calex import networks, plugins
from calex.errors import CalexError, suggestion
from calex.scores import SCORES

# Names that mean something else in tables and file names.
RESERVED = {"methods": {"backbone"}, "policies": {"oracle", "none"}}


def validated(config: dict[str, Any], schema: dict[str, Any], where: str) -> dict[str, Any]:
    """The config with every default present. `where` names it in errors (the path of its file).

    Raises CalexError for a key, a value or a name that does not fit, and for a checkpoint file that is not there.
    """
    try:
        problem = best_match(Draft202012Validator(schema).iter_errors(config))
        if problem is not None:
            raise CalexError(_said(problem, schema))
        config = _with_defaults(config, schema, schema)
        _check_names(config)
    except CalexError as error:
        raise CalexError(f"{where}: {error}") from None
    return config


def load(path: str | Path, schema: str | Path) -> dict[str, Any]:
    """Read and validate a YAML file."""
    return validated(read_yaml(path), read_yaml(schema), str(path))


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
    if problem.validator == "pattern":
        return f"{prefix}'{problem.instance}' is no name; use lower-case letters, digits and _, beginning with a letter"
    expected = problem.schema.get("description", "")
    return f"{prefix}{problem.message.splitlines()[0][:200]}" + (f" ({expected})" if expected else "")


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
        for key in ("backbones", "methods"):
            for entry in dataset[key]:
                _known(entry, config[key], f"{where}.{key}")
    for name, backbone in config["backbones"].items():
        if networks.is_own(backbone["network"]):
            try:
                networks.sources(backbone["network"])
            except CalexError as error:
                raise CalexError(f"backbones.{name}.{error}") from None
        checkpoint = backbone["checkpoint"]
        if checkpoint is not None and not Path(checkpoint).is_file():
            raise CalexError(
                f"backbones.{name}.checkpoint: no such file '{checkpoint}'; give the path of the weights, or null to train"
            )
    for name, method in config["methods"].items():
        where = f"methods.{name}"
        for key, kind in (("recipe", "recipes"), ("head", "heads"), ("target", "targets"), ("weighting", "weightings")):
            method[key] = plugins.complete(kind, method[key], f"{where}.{key}")
        _known(method["score"], SCORES, f"{where}.score")
        for entry in method["policies"]:
            _known(entry, config["policies"], f"{where}.policies")
    for name, policy in config["policies"].items():
        config["policies"][name] = plugins.complete("policies", policy, f"policies.{name}")
