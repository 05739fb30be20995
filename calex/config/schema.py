"""What a config may hold, by its JSON schema: every fault in words, the defaults of what is left out, keys that are paths."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError

from calex.errors import suggestion, unquoted
from calex.plugins import NO_HOME, has_home

FORMATS = FormatChecker(formats=())


@FORMATS.checks("path")
def _is_path(value: Any) -> bool:
    return not isinstance(value, str) or has_home(value)


# What JSON schema's types are called in an error.
TYPES = {
    "object": "a block of keys",
    "array": "a list",
    "string": "a text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "null": "null",
}


def faults(config: dict[str, Any], schema: dict[str, Any]) -> list[tuple[tuple[str, ...], str]]:
    """[(path, line)] of all that does not fit, in the order of the config."""
    violations = {
        (tuple(str(part) for part in problem.absolute_path), line): None
        for problem in Draft202012Validator(schema, format_checker=FORMATS).iter_errors(config)
        for line in _lines(problem)
    }
    infinite = [(place, f"{'.'.join(place)}: {number} is not finite") for place, number in _infinite(config, schema, schema)]
    return sorted([*violations, *infinite], key=lambda fault: _position(config, fault[0]))


def _position(value: Any, path: tuple[str, ...]) -> list[int]:
    """Where a path stands in a config: the number of each of its keys among those beside it."""
    position = []
    for part in path:
        number = int(part) if isinstance(value, list) else list(value).index(part)
        position.append(number)
        value = list(value)[number] if isinstance(value, list) else value[part]
    return position


def _resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    return root["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema


def completed(value: Any, schema: dict[str, Any], root: dict[str, Any]) -> Any:
    """Return a copy in which every key that the schema has a default for is present, and `~` in paths is one's home folder."""
    schema = _resolved(schema, root)
    if isinstance(value, str) and schema.get("format") == "path":
        return os.path.expanduser(value)
    if isinstance(value, dict):
        properties, others = schema.get("properties", {}), schema.get("additionalProperties", {})
        filled = {key: part["default"] for key, part in properties.items() if "default" in part and key not in value} | value
        rest = others if isinstance(others, dict) else {}
        return {key: completed(part, properties.get(key, rest), root) for key, part in filled.items()}
    return value


def _infinite(
    value: Any, schema: dict[str, Any], root: dict[str, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], float]]:
    """Infinities and NaN, with their places, among the keys that the schema describes: it has no rule for them."""
    schema = _resolved(schema, root)
    if isinstance(value, float) and not math.isfinite(value) and "type" in schema:
        yield place, value
    elif isinstance(value, dict):
        others = schema.get("additionalProperties")
        for key, part in value.items():
            rule = schema.get("properties", {}).get(key, others if isinstance(others, dict) else {})
            yield from _infinite(part, rule, root, (*place, str(key)))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _infinite(part, schema.get("items", {}), root, (*place, str(number)))


def _lines(problem: ValidationError) -> Iterator[str]:
    """Yield the lines of a violation: where, what, and the closest match; one for each unknown or missing key."""
    where = ".".join(str(part) for part in problem.absolute_path)
    prefix = f"{where}: " if where else ""
    given, rule, wanted = problem.instance, problem.validator, problem.validator_value
    description = problem.schema.get("description", "") if isinstance(problem.schema, dict) else ""
    if rule == "additionalProperties":
        known = problem.schema.get("properties", {})
        for key in given:
            if key not in known:
                yield f"{prefix}unknown key '{key}', {suggestion(str(key), known)}"
    elif rule == "required":
        for key in wanted:
            if key not in given:
                yield f"{prefix}the key '{key}' is missing"
    elif rule == "enum":
        yield f"{prefix}unknown value '{given}', {suggestion(str(given), map(str, wanted))}{_truth(given)}"
    elif rule == "pattern" and description:
        yield f"{prefix}unknown value '{given}'; use {description}"
    elif rule == "pattern":
        yield f"{prefix}'{given}' is no name; use lower-case letters, digits and _, beginning with a letter"
    elif rule == "format":
        yield f"{prefix}{NO_HOME.format(path=given)}"
    elif rule == "type":
        kinds = " or ".join(TYPES[kind] for kind in ([wanted] if isinstance(wanted, str) else wanted))
        hint = f" ({description})" if description else ""
        yield f"{prefix}expected {kinds}{hint}, got {_shown(given)}{unquoted(given)}{_truth(given)}"
    else:
        yield f"{prefix}{problem.message.splitlines()[0][:200]}" + (f" ({description})" if description else "")


def _shown(value: Any) -> str:
    if value is None:
        return "nothing; fill it in or take the key out"
    if isinstance(value, dict | list):
        kind = TYPES["object" if isinstance(value, dict) else "array"]
        return f"{kind}, {str(value)[:80]}{'…' if len(str(value)) > 80 else ''}"
    return repr(value)


def _truth(value: Any) -> str:
    return "; YAML reads yes, no, on and off as true or false: write a text in quotes" if isinstance(value, bool) else ""
