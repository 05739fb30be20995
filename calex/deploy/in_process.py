"""The workflow's steps for one network and one method, run in this process over files in one folder."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import nn

from calex import images as datasets
from calex import recipes
from calex.backbones import taps
from calex.backbones.records import layouts
from calex.deploy.defaults import CACHING, KEY
from calex.deploy.sweep import Sweep
from calex.deploy.trained import sweep_of
from calex.features.forward import Forward
from calex.features.layout import Layout
from calex.simulation import threshold_table
from calex.simulation.points import SCHEMA
from calex.steps import cache_features, calibrate, evaluate, pareto, train_branch, train_branches, weigh_survivors
from calex.system import devices
from calex.system.files import read_parquet, sha256, write_json
from calex.workflow import plan, settings_argument


@dataclass(frozen=True)
class Steps:
    """Steps that read and write files of one folder.

    device, threads: where to compute, as in the config.
    """

    folder: Path
    device: str
    threads: int

    def exits(self, last: int) -> list[Path]:
        """Give the files of the branches up to the last, from 1."""
        return [self.folder / f"exits{k}.npz" for k in range(1, last + 1)]

    def measure(
        self, network: nn.Module, named: Sequence[str], size: int, pool: int | None, called: str, channels: int
    ) -> dict[str, Any]:
        """Measure taps, as taps.json has them."""
        found, flops = taps.measure_taps(network, named, size, pool, called, channels)
        measured = {"flops": flops, "pool": pool, "taps": [asdict(tap) for tap in found]}
        write_json(self.folder / "taps.json", measured)
        return measured

    def cache(
        self, network: nn.Module, called: str, transform: dict[str, Any], dataset: datasets.Images, measured: dict[str, Any]
    ) -> dict[str, str]:
        """Run a network over each split's images, and give the fingerprints of the dataset and of the network's weights."""
        state = network.state_dict()
        classes, names = len(dataset.names), [tap["name"] for tap in measured["taps"]]
        about: dict[str, Any] = {
            "fingerprint": sha256(*(part for name in sorted(state) for part in (name.encode(), state[name].numpy()))),
            "network": called, "stem": "imagenet", "classes": classes, "transform": transform,
            "augment": {"shift": 0, "flip": False}, "head_holdout": 0,
        }  # fmt: skip
        device = devices.claim(self.device, self.threads)
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for split in datasets.SPLITS:
            index = dataset.indices(split)
            layout = Layout(1, len(index), tuple(tuple(tap["shape"]) for tap in measured["taps"]), classes)
            args = self._args(CACHING, split=split)
            with taps.tapping(network, names, measured["pool"], torch.float16, layouts(measured)) as outputs:
                forward = Forward(
                    network, outputs, layout.taps, layout.classes, "float16", transform, about["augment"],
                    CACHING["batch_size"], "float32", device,
                )  # fmt: skip
                cache_features.dump(args, dataset, index, layout, forward, about, measured)
        network.cpu()
        return {"dataset": dataset.fingerprint, "backbone": about["fingerprint"]}

    def train(self, method: dict[str, Any], branches: int, seed: int) -> None:
        """Train a method's branches on the features, one by one or all at once as its recipe does."""
        settings = method | {"memory_mb": 2048, "train_log_softmax": False}
        common = {"features": self.folder / "features", "seed": seed, "out": self.folder}
        if recipes.joint(method["recipe"]["name"]):
            train_branches.run(self._args(settings, **common))
            return
        for k in range(1, branches + 1):
            weights = None
            if k > 1 and plan.sequential(method):
                weights = self.folder / f"weights{k}.npy"
                weigh_survivors.run(self._args(settings, exits=self.exits(k - 1), out=weights))
            train_branch.run(self._args(settings, branch=k, weights=weights, **common))

    def sweep(self, settings: dict[str, Any], branches: int, classes: int) -> Sweep:
        """Choose a policy's thresholds on validation images and measure its operating points; `calibrate`'s settings."""
        exits, thresholds = self.exits(branches), self.folder / "policy.thresholds.parquet"
        points = self.folder / "policy.points.parquet"
        calibrate.run(self._args(settings, exits=exits, out=thresholds))
        key = settings_argument.parse(json.dumps(KEY))
        evaluate.run(self._args(settings, exits=exits, thresholds=thresholds, key=key, out=points))
        plain = pareto.backbone_rows(KEY["dataset"], KEY["backbone"], exits[0], self.folder)
        table = pl.concat([plain, read_parquet(points, SCHEMA)])
        chosen = settings_argument.with_policy(settings_argument.parse(json.dumps(settings)))
        scorer = dict(chosen["path" if "path" in chosen else "policy"])  # whose scores meet the thresholds
        return sweep_of(table, KEY, threshold_table.read(thresholds, branches, classes), scorer)

    def _args(self, settings: Mapping[str, Any], **more: Any) -> argparse.Namespace:
        """What a step is given on its command line."""
        typed = settings_argument.parse(json.dumps(settings))
        common = {"out": self.folder / "features", "device": self.device, "threads": self.threads}
        return argparse.Namespace(**common | {"settings": typed} | more)
