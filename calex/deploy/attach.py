"""Early exits for a network in a notebook, without Snakemake: the same steps, over files in a folder that may be forgotten."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from calex import __version__, plugins, recipes
from calex import images as datasets
from calex.backbones import build, own, proposal
from calex.backbones import normalisation as normalising
from calex.backbones.trace import check_network
from calex.branches.branch import built, head_for
from calex.config.layers import merged
from calex.deploy import pictures
from calex.deploy.arrays import Data, dataset_of
from calex.deploy.cascade import Cascade
from calex.deploy.defaults import METHOD, POLICY
from calex.deploy.folder import GIVEN, assembled
from calex.deploy.in_process import Steps
from calex.deploy.sweep import Wish
from calex.errors import CalexError
from calex.policies import check_last
from calex.simulation import exits
from calex.simulation.rule import charged
from calex.workflow import reading, settings_argument


def attach(
    network: nn.Module,
    taps: Sequence[str] | Literal["auto"],
    *,
    classes: Sequence[str],
    size: int,
    normalisation: Mapping[str, list[float]] | None = None,
    pool: int | None = 8,
    method: Mapping[str, Any] | None = None,
    name: str | None = None,
    folder: str | Path | None = None,
    device: str = "auto",
    threads: int = 2,
) -> Attached:
    """Attach branches to a trained network, which stays as it is.

    Parameters
    ----------
    network : torch.nn.Module
        The trained network, which ends in logits.
    taps : sequence of str, or "auto"
        Names of the modules that branches read, shallow to deep; "auto" takes four places, the first of them early.
    classes : sequence of str
        The classes' names, in the order of the network's outputs.
    size : int
        Side, in pixels, at which the network reads images.
    normalisation : dict, optional
        `mean` and `std` that the network was trained with, a number for each channel, white being 1; measured on the training
        images where it is not given.
    pool : int, optional
        Taps are averaged to at most pool×pool cells; None keeps them whole.
    method : dict, optional
        Blocks and keys of a method as in the config, over the defaults: `recipe`, `head`, `target`, `weighting`, `shared_core`,
        `score`, `correct`. Without it branches learn as those of `calex_best` in config/config.yaml, for 30 epochs of batches
        of 128 images. A block without a name, or with the default's, changes the keys that it has.
    name : str, optional
        By what the network can be built again, torchvision's name or `package.module:function`; without one a saved cascade is
        loaded with a network of the same kind, `calex.load(folder, network=network)`.
    folder : str or path, optional
        Where features and branches are kept; without one they are forgotten with the object.
    device, threads
        Where to compute, as in the config.

    Returns
    -------
    Attached
        With `fit`, then `calibrate`.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from torch import nn
    >>> network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> attach(network, ["1"], classes=["cat", "dog"], size=8).taps
    ['1']
    """
    return Attached(network, taps, classes, size, normalisation, pool, method, name, folder, device, threads)


class Attached:
    """A frozen network with places for branches: `fit` trains them, `calibrate` makes a cascade of them.

    Attributes
    ----------
    network : torch.nn.Module
        A frozen copy of the network.
    taps, classes : list of str
        Where branches read, and the names of the classes.
    """

    def __init__(
        self,
        network: nn.Module,
        taps: Sequence[str] | Literal["auto"],
        classes: Sequence[str],
        size: int,
        normalisation: Mapping[str, list[float]] | None,
        pool: int | None,
        method: Mapping[str, Any] | None,
        name: str | None,
        folder: str | Path | None,
        device: str,
        threads: int,
    ) -> None:
        self.network, self.classes = build.freeze(build.copied(network).cpu()), [*map(str, classes)]
        self.size, self.given, self.pool, self.name = size, normalisation, pool, name
        unknown = set(method or {}) - set(METHOD)
        if unknown:
            raise CalexError(f"method: unknown key '{min(unknown)}', known: {', '.join(METHOD)}")
        chosen = settings_argument.Settings(merged([METHOD, method or {}]))
        self.method = settings_argument.completed(
            chosen, recipe="recipes", head="heads", target="targets", weighting="weightings"
        )
        recipes.check_score(self.method["recipe"]["name"], self.method["score"], "method.score")
        recipes.check_weighting(self.method["recipe"]["name"], self.method["weighting"]["name"], "method.weighting")
        recipes.check_warmup(self.method["recipe"]["name"], self.method["recipe"], "method.recipe")
        self.dataset: datasets.Images | None = None  # until all branches have learnt from it
        self.called = name or type(network).__name__
        self.channels = check_network(self.network, self.called, size, len(self.classes))
        self.taps = proposal.names_of(taps, self.network, size, pool, self.called, self.channels)
        self.forgotten = tempfile.TemporaryDirectory(prefix="calex-") if folder is None else None
        here = Path(folder) if folder is not None else Path(self.forgotten.name)  # type: ignore[union-attr]
        self.steps = Steps(here, device, threads)
        if name is not None:
            self._check_name(name)

    def _check_name(self, name: str) -> None:
        other = build.build(name, "imagenet", len(self.classes), self.size).state_dict()
        shapes = {key: tensor.shape for key, tensor in self.network.state_dict().items()}
        if {key: tensor.shape for key, tensor in other.items()} != shapes:
            raise CalexError(f"name: {name} builds a network of other weights than the given one; leave it out")

    def fit(self, train: Data, val: Data, test: Data | None = None, seed: int = 0) -> Attached:
        """Run the network once over all images, and train the branches on its features; gives the object itself.

        Parameters
        ----------
        train, val, test : pairs of arrays
            Images (N, H, W, 1 or 3) uint8, all of one size, and labels (N,) whole numbers. Branches learn from `train`,
            thresholds from `val`; `test` tells what a choice was worth, and is not measured where it is not given.
        seed : int
            Of the branches' initial weights and the order of images.

        Raises
        ------
        CalexError
            For images and labels that are none, and for a network or tap that does not fit.
        """
        self.dataset, dataset = None, dataset_of(train, val, test or val, self.classes)
        self.tested = test is not None
        scale = normalising.normalisation(self.given, dataset.of(dataset.indices("train")), self.channels)  # type: ignore[arg-type]
        self.transform = {"size": self.size, **scale}
        measured = self.steps.measure(self.network, self.taps, self.size, self.pool, self.called, self.channels)
        self.measured, self.fingerprints = (
            measured,
            self.steps.cache(self.network, self.called, self.transform, dataset, measured),
        )
        self.steps.train(self.method | {"confidence": self._confidence()}, len(self.taps), seed)
        self.dataset = dataset
        return self

    def _confidence(self) -> bool:
        return self.method["score"] == "confidence"

    def calibrate(
        self,
        policy: Mapping[str, Any] | str = POLICY,
        *,
        max_flops: float | None = None,
        min_accuracy: float | None = None,
        max_drop: float | None = None,
    ) -> Cascade:
        """Choose thresholds on the validation images, and give the cascade.

        Parameters
        ----------
        policy : str or dict
            Its name, or its block as in the config: `{"name": "cpm", "score": "margin", "last": "combined"}`. The `path` of `risk`, over whose
            operating points it decides, is such a name or block too.
        max_flops, min_accuracy, max_drop : float, optional
            At which operating point, as in `Cascade.at`; without any, the cheapest that is at most 0.01 less accurate than the
            network.

        Raises
        ------
        CalexError
            Where no operating point is so, for a score that the branches do not give, and before `fit` has ended.
        """
        if self.dataset is None:
            raise CalexError("there are no branches yet; call fit(train, val) first")
        asked = {"max_flops": max_flops, "min_accuracy": min_accuracy, "max_drop": max_drop}
        wish = Wish(**asked if any(value is not None for value in asked.values()) else {"max_drop": 0.01})
        settings = self._calibration(policy)
        sweep = self.steps.sweep(settings, len(self.taps), len(self.classes))
        if not self.tested:
            unknown = {name: np.full_like(values, np.nan) for name, values in sweep.curves.items() if name.startswith("test")}
            sweep.curves.update(unknown)
            sweep.network["test"] = float("nan")
        return self._cascade(sweep, sweep.choose(wish), settings["score"], settings["last"])

    def _calibration(self, policy: Mapping[str, Any] | str) -> dict[str, Any]:
        """Give the settings of the step `calibrate` for a policy's name or block, as a run's config would."""
        block = {"name": policy} if isinstance(policy, str) else dict(policy)
        if "name" not in block:
            raise CalexError(f'policy: a block with a name is expected, such as {{"name": "cpm"}}, got {block}')
        path: dict[str, Any] | None = None
        whole = plugins.complete("policies", {"name": block["name"]}, "policy")
        if plugins.constants("policies", block["name"]).get("OVER", False):
            over = block.get("path", whole["path"])
            path = {"name": over} if isinstance(over, str) else dict(over)
            block["path"] = path["name"]
        score = reading.score_of(self.method, block, path)
        recipes.check_score(self.method["recipe"]["name"], str(score), "policy.score")
        # A recipe that trains all branches at once and gives a confidence always trains it.
        if score == "confidence" and not (self._confidence() or recipes.joint(self.method["recipe"]["name"])):
            raise CalexError(
                'policy.score: the branches learnt no confidence; give `score: "confidence"` in `method`, then fit again'
            )
        last = reading.last_of(block, path)
        check_last(block["name"], last, "policy.last")
        policies = {"policy": block} | ({} if path is None else {"path": path})
        plain = {key: reading.without_reading(one) for key, one in policies.items()}
        return {**plain, "score": score, "last": last, "correct": self.method["correct"], "folds": 5}

    def _cascade(self, sweep: Any, point: int, score: str, last: str) -> Cascade:
        assert self.dataset is not None
        shapes = [tuple(tap["shape"]) for tap in self.measured["taps"]]
        head = head_for(self.method["head"], self.measured["flops"], len(self.classes))
        method = {"recipe": self.method["recipe"], "head": head, "shared_core": self.method["shared_core"]}
        method["confidence"] = self._confidence()
        branches = built(method, shapes, len(self.classes), seed=0)  # type: ignore[arg-type]
        for k, branch in enumerate(branches.branches, 1):
            branch.load_state_dict(load_file(self.steps.folder / f"branch{k}.safetensors"))
        validation = exits.read(self.steps.exits(len(shapes)), "val", score)
        policy = plugins.load("policies", sweep.policy["name"])
        costs = charged(policy, validation, plugins.options_of(sweep.policy)).costs
        splits = ("val", "test") if self.tested else ("val",)
        name = self.name or GIVEN
        record = {
            "network": {"name": name, "stem": "imagenet", "sources": own.source_hashes(name) if own.is_own(name) else {}},
            "classes": self.classes, "channels": self.channels, "transform": self.transform,
            "picture": pictures.like(self.dataset.images.shape[1:], {}, {}),
            "taps": self.taps, "layouts": [tap["layout"] for tap in self.measured["taps"]], "shapes": [list(each) for each in shapes],
            "pool": self.pool, "precision": "float16", "compute": "float32", "method": method, "score": score, "last": last,
            "costs": {"to_tap": list(costs.to_tap), "head": list(costs.head), "backbone": costs.backbone},
            "made": {
                "images": {split: len(self.dataset.indices(split)) for split in splits}, "fingerprints": self.fingerprints,
                "versions": {"calex": __version__, "torch": torch.__version__},
            },
        }  # fmt: skip
        return assembled(build.copied(self.network), branches, sweep, record, point)
