"""Cascades over a network of a few thousand weights, random ones, for the tests of what runs and saves cascades."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from calex import plugins
from calex.branches.branch import built
from calex.deploy.cascade import Cascade
from calex.deploy.folder import assembled
from calex.deploy.sweep import CURVES, Sweep

torch.set_num_threads(1)
ONNX = None not in map(find_spec, ("onnx", "onnxruntime", "onnxscript"))
NEEDS_ONNX = pytest.mark.skipif(not ONNX, reason="ONNX is an extra that needs a newer torch: pip install -e '.[onnx]'")
CLASSES, TAPS, POOL = 4, ["one", "two", "three"], 3
SHAPES = [(6, 3, 3), (8, 3, 3), (8, 2, 2)]


class Small(nn.Module):
    """Its taps are a module's output that the next one overwrites, a block of several, and one before a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6))
        self.overwrite = nn.ReLU(inplace=True)
        self.two = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1), nn.ReLU())
        self.three = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.skip = nn.Conv2d(6, 8, 3, stride=4, padding=1)
        self.answer = nn.Linear(8, CLASSES)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.overwrite(self.one(images))
        third = self.three(self.two(first))
        return self.answer((third + self.skip(first)).mean((2, 3)))


def block(kind: str, name: str, **options: Any) -> dict[str, Any]:
    return plugins.complete(kind, {"name": name, **options}, kind)


METHODS = {
    "branchwise": {
        "recipe": block("recipes", "branchwise"),
        "head": block("heads", "prototype", prototypes=3),
        "shared_core": False,
        "confidence": True,
    },
    "shared": {
        "recipe": block("recipes", "branchwise"),
        "head": block("heads", "separable", filters=4),
        "shared_core": True,
        "confidence": True,
    },
    "pteenet": {
        "recipe": block("recipes", "pteenet"),
        "head": block("heads", "pteenet"),
        "shared_core": False,
        "confidence": True,
    },
    "ztw": {"recipe": block("recipes", "ztw"), "head": block("heads", "ztw"), "shared_core": False, "confidence": True},
    "boostnet": {
        "recipe": block("recipes", "boostnet"),
        "head": block("heads", "boostnet", filters=4),
        "shared_core": False,
        "confidence": True,
    },
    "jei_dnn": {
        "recipe": block("recipes", "jei_dnn"),
        "head": block("heads", "flat", pool=1),
        "shared_core": False,
        "confidence": True,
    },
    "e2cm": {"recipe": block("recipes", "e2cm"), "head": block("heads", "flat"), "shared_core": False, "confidence": False},
    "l2w_den": {
        "recipe": block("recipes", "l2w_den"),
        "head": block("heads", "sdn", pool=2),
        "shared_core": False,
        "confidence": False,
    },
    **{
        ensemble: {
            "recipe": block("recipes", "supervised", ensemble=ensemble),
            "head": block("heads", "local_prototype", prototypes=3),
            "shared_core": False,
            "confidence": False,
        }
        for ensemble in ("averaged", "geometric")
    },
}
WITH_CONFIDENCE = {"branchwise", "shared", "pteenet", "jei_dnn"}


def random_weights(module: nn.Module, seed: int) -> None:
    """Weights and statistics as after a training that went anywhere; scales and variances are above 0."""
    draw = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.dtype == torch.float32:
            values = torch.randn(tensor.shape, generator=draw) * 0.3
            tensor.copy_(values if tensor.ndim > 1 else (values + 1).abs() + 0.1)


def sweep(thresholds: np.ndarray) -> Sweep:
    points, branches, _ = thresholds.shape
    curves = {name: np.linspace(0.2, 0.9, points) for name in CURVES}
    share = np.full((points, branches + 1), 1 / (branches + 1))
    parameters = [f'{{"p":{p}}}' for p in range(points)]
    return Sweep(thresholds, parameters, curves, share, {"val": 0.9, "test": 0.9}, block("policies", "global"))


def made(method: str, score: str, thresholds: np.ndarray, seed: int = 0, network: nn.Module | None = None) -> Cascade:
    network, branches = network or Small(), built(METHODS[method], SHAPES, CLASSES, seed)
    random_weights(network, seed)
    random_weights(branches, seed + 1)
    record = {
        "network": {"name": "small", "stem": "imagenet", "sources": {}}, "classes": list("abcd"), "channels": 3,
        "transform": {"size": 7, "mean": [0.4] * 3, "std": [0.3] * 3},
        "picture": {"size": 7, "fit": "crop", "grey": False, "whites": {}}, "taps": TAPS, "layouts": [{}] * 3, "shapes": SHAPES, "pool": POOL,
        "precision": "float16", "compute": "float32", "method": METHODS[method], "score": score, "last": "backbone",
        "costs": {"to_tap": [1.0, 2.0, 3.0], "head": [0.1] * 3, "backbone": 4.0}, "made": {"images": {}},
    }  # fmt: skip
    return assembled(network, branches, sweep(thresholds), record, 0)
