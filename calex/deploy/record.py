"""cascade.json: all that a cascade's folder says of itself beside its weights, checked before anything is built from it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from calex import plugins
from calex.backbones.records import LAYOUT
from calex.deploy.sweep import CURVES, Sweep
from calex.errors import CalexError
from calex.simulation.last import LAST
from calex.simulation.scores import SCORES
from calex.system.files import canonical_json, read_json, sha256

FORMAT = 3  # 2 did not say what answers where no branch does; 1 had one white for pictures of more than 8 bits
THRESHOLDS, LEARNT = "thresholds", "learnt."  # tensors in the weights' file, and the beginning of names of others
PREPARE = "prepare.onnx"
RECORD, WEIGHTS, CARD = "cascade.json", "weights.safetensors", "README.md"
AGAIN = "export it again"


def onnx_file(stage: int) -> str:
    """Name the ONNX file of a stage, which counts from 0 here and from 1 there."""
    return f"stage{stage + 1}.onnx"


def _with_whites(record: dict[str, Any]) -> dict[str, Any]:
    """From format 1."""
    if record.get("picture"):
        white = record["picture"].pop("white")
        record["picture"]["whites"] = {"integer": white, "float": white} if white else {}
    return record | {"format": 2}


def _with_last(record: dict[str, Any]) -> dict[str, Any]:
    """From format 2."""
    return record | {"last": "backbone", "format": 3}


# What turns a record of an older format into one of the next: {the older: function}.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _with_whites, 2: _with_last}

_TEXT, _COUNT, _NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}, {"type": "number"}
_POSITIVE = {"type": "number", "exclusiveMinimum": 0}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 3, "maxItems": 3}


def _list(items: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


_NAMED = _object(name=_TEXT)
# What the network reads: the numbers that `calex.transform.to_input` takes.
_SIZE = {"type": "integer", "minimum": 1}
_TRANSFORM = _object(size=_SIZE, mean=_list(_NUMBER), std=_list(_POSITIVE)) | {"additionalProperties": False}
_TRANSFORM["properties"] |= {"resize": {"type": ["integer", "null"], "minimum": 1}, "fit": {"enum": ["stretch", "crop"]}}
_TRANSFORM["properties"]["interpolation"] = {"enum": ["bilinear", "bicubic"]}
_WHITES = {"type": "object", "additionalProperties": _POSITIVE}
_PICTURE = _object(size=_SIZE, fit={"enum": ["crop", "stretch"]}, grey={"type": "boolean"}, whites=_WHITES)
SCHEMA = _object(
    format={"type": "integer"}, calex=_TEXT, files={"type": "object", "additionalProperties": _TEXT},
    network=_object(name=_TEXT, stem=_TEXT, sources={"type": "object"}), classes=_list(_TEXT, 2), channels={"enum": [1, 3]},
    transform=_TRANSFORM, picture={"anyOf": [{"type": "null"}, _PICTURE]},
    taps=_list(_TEXT), layouts=_list(LAYOUT), shapes=_list(_SHAPE), pool={"type": ["integer", "null"], "minimum": 1},
    precision={"enum": ["float16", "float32"]}, compute={"enum": ["float32", "bfloat16", "float16"]},
    method=_object(recipe=_NAMED, head=_NAMED, shared_core={"type": "boolean"}, confidence={"type": "boolean"}),
    score={"enum": list(SCORES)}, last={"enum": list(LAST)}, policy=_NAMED,
    costs=_object(to_tap=_list(_POSITIVE), head=_list(_POSITIVE), backbone=_POSITIVE),
    points=_object(
        parameters=_list(_TEXT), **{name: _list({"type": ["number", "null"]}) for name in CURVES},
        exit_share=_list(_list(_NUMBER, 2)), network=_object(val=_NUMBER, test={"type": ["number", "null"]}),
    ),
    point=_COUNT, made=_object(images={"type": "object", "additionalProperties": _COUNT}),
)  # fmt: skip


def read_record(folder: Path) -> dict[str, Any]:
    """Read a cascade's record, of this format or an older one; a CalexError for what cannot be one."""
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import best_match

    path = folder / RECORD
    if not path.is_file():
        raise CalexError(f"{folder}: no cascade, it holds no {RECORD}; give the folder that `python -m calex export` wrote")
    record = read_json(path, "format", "calex")
    version = record["format"]
    if not isinstance(version, int) or version > FORMAT:
        raise CalexError(
            f"{path}: of format {version}, by calex {record['calex']}, and this calex reads up to {FORMAT}; upgrade calex"
        )
    while version < FORMAT:
        if version not in UPGRADES:
            raise CalexError(f"{path}: of format {version}, by calex {record['calex']}, which is no longer read; {AGAIN}")
        record, version = UPGRADES[version](record), version + 1
    problem = best_match(Draft202012Validator(SCHEMA).iter_errors(record))
    if problem is not None:
        where = "".join(f"{part}: " for part in problem.absolute_path)
        raise CalexError(f"{path}: {where}{problem.message.splitlines()[0][:200]}; {AGAIN}")
    _check(record, path)
    return record


def _check(record: dict[str, Any], path: Path) -> None:
    """Refuse what fits the schema and no cascade: lists of other lengths, numbers that are none, names of other files."""
    try:
        canonical_json(record)
    except ValueError:
        raise CalexError(f"{path}: holds a number that is not finite; {AGAIN}") from None
    branches, points = len(record["taps"]), len(record["points"]["parameters"])
    lengths = {"shapes": (record["shapes"], branches), "layouts": (record["layouts"], branches)}
    lengths |= {f"costs.{name}": (record["costs"][name], branches) for name in ("to_tap", "head")}
    lengths |= {f"points.{name}": (record["points"][name], points) for name in CURVES}
    lengths["points.exit_share"] = (record["points"]["exit_share"], points)
    lengths |= {f"points.exit_share.{point}": (each, branches + 1) for point, each in enumerate(record["points"]["exit_share"])}
    lengths |= {f"transform.{name}": (record["transform"][name], record["channels"]) for name in ("mean", "std")}
    for name, (values, length) in lengths.items():
        if len(values) != length:
            raise CalexError(f"{path}: {name} has {len(values)} entries and not {length}; {AGAIN}")
    for name in ("val_accuracy", "val_flops_fraction"):
        if not all(isinstance(value, int | float) and 0 <= value < np.inf for value in record["points"][name]):
            raise CalexError(f"{path}: points.{name} holds what is no share; {AGAIN}")
    if record["point"] >= points:
        raise CalexError(f"{path}: point {record['point']} is none of 0..{points - 1}; {AGAIN}")
    if len(set(record["classes"])) < len(record["classes"]):
        raise CalexError(f"{path}: classes has a name twice; {AGAIN}")
    for name in record["files"]:
        if name != WEIGHTS and not re.fullmatch(r"(prepare|stage[0-9]+)\.onnx", name):
            raise CalexError(f"{path}: files names {name!r}, which is no file of a cascade; {AGAIN}")
    onnx = {PREPARE, *map(onnx_file, range(branches + 1))} if len(record["files"]) > 1 else set()
    if onnx - set(record["files"]):
        raise CalexError(f"{path}: files names no {min(onnx - set(record['files']))}; {AGAIN}")
    if WEIGHTS not in record["files"]:
        raise CalexError(f"{path}: files names no {WEIGHTS}; {AGAIN}")
    method = record["method"]
    for kind, block in (("recipes", method["recipe"]), ("heads", method["head"]), ("policies", record["policy"])):
        plugins.complete(kind, block, f"{path}: method")


def read_file(folder: Path, name: str, record: dict[str, Any]) -> bytes:
    """Read one of a cascade's files, which must be the one that was written with its record."""
    path = folder / name
    content = path.read_bytes()
    if sha256(content) != record["files"].get(name):
        raise CalexError(f"{path}: not the file that {RECORD} beside it describes (another sha256); {AGAIN}")
    return content


def sweep_of(record: dict[str, Any], tensors: dict[str, np.ndarray], where: Path) -> Sweep:
    """The operating points of a record, with their thresholds (P, K, C) float64 and what else was learnt."""
    points, thresholds = record["points"], tensors.get(THRESHOLDS, np.zeros(0))
    shape = (len(points["parameters"]), len(record["taps"]), len(record["classes"]))
    if thresholds.shape != shape or thresholds.dtype != np.float64:
        raise CalexError(f"{where}: thresholds are {thresholds.dtype} {thresholds.shape}, not float64 {shape}; {AGAIN}")
    if np.isnan(thresholds).any():
        raise CalexError(f"{where}: a threshold is not a number; {AGAIN}")
    learnt = {name.removeprefix(LEARNT): value for name, value in tensors.items() if name.startswith(LEARNT)}
    for name, value in learnt.items():
        if value.dtype.kind != "f" or value.ndim < 1 or len(value) not in (1, shape[0]) or not np.isfinite(value).all():
            raise CalexError(f"{where}: {LEARNT}{name} is no finite numbers of {shape[0]} operating points; {AGAIN}")
    curves = {name: np.array([np.nan if value is None else value for value in points[name]], float) for name in CURVES}
    network = {split: float("nan") if value is None else float(value) for split, value in points["network"].items()}
    exit_share = np.array(points["exit_share"], float)
    return Sweep(thresholds, points["parameters"], curves, exit_share, network, record["policy"], learnt)


def points_of(sweep: Sweep) -> dict[str, Any]:
    """The part of a record that a sweep is, less its thresholds."""
    finite = {name: [None if np.isnan(value) else float(value) for value in sweep.curves[name]] for name in CURVES}
    network = {split: None if np.isnan(value) else float(value) for split, value in sweep.network.items()}
    return {"parameters": sweep.parameters, "exit_share": sweep.exit_share.tolist(), "network": network} | finite
