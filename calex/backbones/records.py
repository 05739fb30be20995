"""What other steps read of a backbone's records, backbone.json and taps.json, checked against their schemas."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from calex.backbones.maps import CLASS_TOKENS, KINDS, MapLayout
from calex.system.files import read_record

_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_SHAPE = {"type": "array", "items": _COUNT, "minItems": 3, "maxItems": 3}
# One number for each channel that the network reads.
_CHANNELS = {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


BACKBONE = _object(
    network=_TEXT, stem=_TEXT, classes=_COUNT, dataset=_TEXT, fingerprint=_TEXT,
    transform=_object(size=_COUNT, mean=_CHANNELS, std=_CHANNELS), augment=_object(shift=_COUNT, flip={"type": "boolean"}),
    head_holdout={"type": "number"},
)  # fmt: skip
_TAP = _object(name=_TEXT, flops=_COUNT, shape=_SHAPE)
LAYOUT = {
    "type": "object",
    "additionalProperties": False,
    "properties": {"kind": {"enum": [*KINDS]}, "extra": _COUNT, "class_token": {"enum": [*CLASS_TOKENS]}},
}
TAPS = _object(
    network=_TEXT, stem=_TEXT, input_size=_COUNT, flops=_COUNT, pool={"type": ["integer", "null"], "minimum": 1},
    taps={"type": "array", "minItems": 1, "items": {**_TAP, "properties": {**_TAP["properties"], "layout": LAYOUT}}},
)  # fmt: skip


def read_backbone_record(weights: str | Path) -> dict[str, Any]:
    """Read the backbone.json beside its weights."""
    return read_record(Path(weights).with_suffix(".json"), BACKBONE, "train-backbone")


def read_taps_record(path: str | Path) -> dict[str, Any]:
    """Read a taps.json."""
    return read_record(path, TAPS, "measure-taps")


def layouts(measured: dict[str, Any]) -> list[MapLayout]:
    """How each tap of a taps.json is read as a map; one that does not say it is one already."""
    return [MapLayout(**tap.get("layout", {})) for tap in measured["taps"]]
