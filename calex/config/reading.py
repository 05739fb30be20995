"""Reading a config file so that nothing in it is taken otherwise than it is written: YAML, or JSON.

YAML lets a key come twice, and the last one wins; it takes the names `on` and `no` for truth values. Here each is an
error that names the line.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from calex.errors import CalexError, Faults

TEXT = "tag:yaml.org,2002:str"
MERGE = "tag:yaml.org,2002:merge"


def read_layers(paths: Iterable[str | Path]) -> list[dict[str, Any]]:
    """Return the keys of each of several files; raise one CalexError for what is wrong in all of them."""
    faults, layers = Faults(), []
    for path in paths:
        with faults.gather():
            layers.append(read_yaml(path))
    if faults:
        raise CalexError(*faults)
    return layers


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Return the keys of a YAML or JSON file.

    Raises CalexError for a file that is neither, for keys that come twice in one block (all of them, with their
    lines), for keys that are no text, and for an alias inside what it stands for.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CalexError(f"{path}: not valid YAML: {error}; save it as UTF-8") from None
    try:
        content = json.loads(text)
        text = text.replace("\t", " ")  # JSON may be indented with tabs, and has none within a text
    except ValueError:
        content = None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        if node is not None and (wrong := list(_faults(node, "", ()))):
            raise CalexError(*(f"{path}: {fault}" for fault in dict.fromkeys(wrong)))
        content = yaml.safe_load(text) if content is None else content
    except yaml.YAMLError as error:
        raise CalexError(f"{path}: not valid YAML: {_problem(error)}") from None
    if not isinstance(content, dict):
        raise CalexError(f"{path}: holds no keys; see config/README.md")
    return content


def _problem(error: yaml.YAMLError) -> str:
    """Return a YAML error in one line, with its place."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    if "'\\t'" in problem:
        problem = "a tab; indent with spaces"
    start = getattr(error, "context_mark", None)
    begun = f" (what begins in line {start.line + 1})" if start is not None and start.line != mark.line else ""
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}{begun}"


def _faults(node: yaml.Node, place: str, above: tuple[yaml.Node, ...]) -> Iterator[str]:
    """Yield what is wrong in a node and below it; `place` is its path, as in `methods.calexnet.head`."""
    if any(node is one for one in above):
        yield f"line {node.start_mark.line + 1}: {place}: an alias inside what it stands for; write it out"
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            yield from _faults(item, f"{place}.{number}" if place else str(number), (*above, node))
    elif isinstance(node, yaml.MappingNode):
        lines: dict[str, list[int]] = {}
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (TEXT, MERGE):
                yield f"line {line}: {_wrong_key(key)}"
                continue
            lines.setdefault(key.value, []).append(line)
            yield from _faults(value, f"{place}.{key.value}" if place else key.value, (*above, node))
        for key, given in lines.items():
            if len(given) > 1:
                times = "twice" if len(given) == 2 else f"{len(given)} times"
                listed = f"{', '.join(map(str, given[:-1]))} and {given[-1]}"
                prefix = f"{place}: " if place else ""
                yield f"{prefix}the key '{key}' is given {times}, lines {listed}; keep one"


def _wrong_key(key: yaml.Node) -> str:
    if not isinstance(key, yaml.ScalarNode):
        return "a list or a block in place of a key; a key is text"
    kind = key.tag.rsplit(":", 1)[1]
    read = {"bool": "true or false", "null": "null", "int": "a number", "float": "a number", "timestamp": "a date"}
    return f"the key {key.value or '~'} is read by YAML as {read.get(kind, kind)}; write it in quotes: '{key.value or '~'}'"
