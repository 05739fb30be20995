"""The cascade that runs: a frozen network in stages, trained branches, and the thresholds of a whole sweep."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from calex.backbones.maps import MapLayout, as_map
from calex.backbones.taps import pooled
from calex.backbones.transform import to_input
from calex.branches.branch import Branches
from calex.deploy import pictures
from calex.deploy.cut import Stage
from calex.deploy.fusing import fuse
from calex.deploy.routing import Answers, route
from calex.deploy.sweep import Sweep, Wish
from calex.simulation.cost import Costs
from calex.system.precision import autocast

CHUNK = 256  # pictures that are read and answered at a time
PART = 16 << 20  # bytes of input that a CPU answers at a time: the maps of more images do not stay in its caches


class Cascade(nn.Module):
    """A network that answers easy images early.

    It is made by `calex.load` from a folder that `python -m calex export` or `save` wrote, or by `calex.attach` from a network.
    A batch is routed for real: after each branch the images that it answers are taken out, and only the others go on.

        cascade = calex.load("results/digits/resnet18/cascade")
        answers = cascade.classify(["cat.jpg", "dog.png"])      # files, or pixels (B, H, W, C) uint8
        cascade.classes[answers.prediction[0]]                  # the name of its class
        cheaper = cascade.at(max_flops=0.3)                     # another operating point of the same weights

    `cascade(inputs)` answers what `cascade.prepare(pixels)` gives: (B, channels, S, S) float32, resized and normalised.
    Both give `Answers`: prediction (B,) int64, probabilities (B, C) float32, exit (B,) int64 (from 0; K is the network
    itself) and score (B,) float32.

    It moves with `.to(device)`, is always in evaluation mode, and computes under `torch.autocast` as any module. `fuse()` makes
    it faster where a network has convolutions, and `compile_stages()` compiles it stage by stage; as a whole it cannot be
    compiled, because how many images go on is only known as it runs.

    Attributes
    ----------
    classes : list of str
        The names of the classes.
    sweep : calex.deploy.sweep.Sweep
        All operating points: thresholds, and accuracy and cost on validation and test images.
    point : int
        The one that it works at; `at` gives a cascade at another.
    costs : calex.Costs
        FLOPs of an image at each exit.
    about : dict
        What cascade.json says: where it comes from, how it was trained and with what.
    """

    def __init__(
        self, network: nn.Module, stages: Iterable[Stage], branches: Branches, sweep: Sweep, about: dict[str, Any], point: int
    ) -> None:
        super().__init__()
        self.network, self.stages, self.branches = network, nn.ModuleList(stages), branches
        self.sweep, self.about, self.point = sweep, about, point
        self.eval().requires_grad_(False)

    @property
    def classes(self) -> list[str]:
        """The names of the classes, in the order of predictions."""
        return self.about["classes"]

    @property
    def carried(self) -> list[Sequence[str]]:
        """What each stage is given, see `calex.deploy.carrying`."""
        return [stage.carried for stage in self.stages]  # type: ignore[misc]

    @property
    def costs(self) -> Costs:
        """FLOPs of an image at each exit."""
        costs = self.about["costs"]
        return Costs(tuple(costs["to_tap"]), tuple(costs["head"]), costs["backbone"])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """What the weights are kept in; `half()` and its like change it, for the network and the branches alike."""
        return next(self.network.parameters()).dtype

    def train(self, mode: bool = True) -> Cascade:
        """Stay in evaluation mode: its weights are frozen."""
        return super().train(False)

    def at(
        self, *, max_flops: float | None = None, min_accuracy: float | None = None, max_drop: float | None = None
    ) -> Cascade:
        """Give the same cascade at another operating point, chosen on validation images; the weights are shared.

        Parameters
        ----------
        max_flops : float, optional
            The most that an image may cost in the mean, as a share of the network's operations: the most accurate such point.
        min_accuracy : float, optional
            The least share of right answers: the cheapest such point.
        max_drop : float, optional
            How much less accurate than the network it may be, as a share of images: the cheapest such point.

        Raises
        ------
        CalexError
            Where no point is so, with what there is.
        """
        other = copy.copy(self)
        other.point = self.sweep.choose(Wish(max_flops, min_accuracy, max_drop))
        return other

    def save(self, folder: str | Path) -> None:
        """Write the cascade as a folder, which `calex.load` reads; an older cascade there is replaced."""
        from calex.deploy.folder import write  # which makes cascades itself

        write(self, folder)

    def prepare(self, pixels: np.ndarray) -> torch.Tensor:
        """(B, H, W, 1 or 3) uint8 → (B, channels, S, S) float32, as the network reads images: resized and normalised."""
        return to_input(pixels, **self.about["transform"], device=self.device)

    def classify(self, images: np.ndarray | Sequence[str | Path]) -> Answers:
        """Answer pixels (B, H, W, 1 or 3) uint8, or the files of pictures, which are read as the training images were."""
        answers = [
            self(self.prepare(images[start : start + CHUNK]))
            if isinstance(images, np.ndarray)
            else self(
                self.prepare(np.stack([pictures.read(path, self.about["picture"]) for path in images[start : start + CHUNK]]))
            )
            for start in range(0, max(len(images), 1), CHUNK)
        ]
        return Answers(*(torch.cat(parts) for parts in zip(*answers, strict=True)))

    @torch.inference_mode()
    def forward(self, inputs: torch.Tensor) -> Answers:
        """Answer (B, channels, S, S) float32, prepared images on the cascade's device."""
        inputs = inputs.to(self.dtype)
        if len(inputs) and inputs.ndim == 4:
            inputs = inputs.contiguous(memory_format=torch.channels_last)
        rule, count = self.sweep.rule(self.point), max(len(inputs), 1)
        if inputs.device.type == "cpu":
            count = max(1, PART * len(inputs) // max(inputs.nbytes, 1))
        answers = [route(self, part, rule, self.about["score"], self.about["last"]) for part in inputs.split(count)]
        return Answers(*(torch.from_numpy(np.concatenate(part)).to(inputs.device) for part in zip(*answers, strict=True)))

    def run(
        self, stage: int, values: Sequence[Any], before: torch.Tensor | None
    ) -> tuple[np.ndarray, np.ndarray | None, Sequence[Any], torch.Tensor | None]:
        """Compute a stage and its branch: see `calex.deploy.routing.Runtime`."""
        with autocast(self.device, self.about["compute"]):
            output, *values = self.stages[stage](*values)
        confidence = None
        if stage < len(self.branches.branches):
            # Rounded as the stored features that the branch learnt from and was calibrated on.
            feature_map = as_map(output, MapLayout(**self.about["layouts"][stage]))
            tap = pooled(feature_map, self.about["pool"]).to(getattr(torch, self.about["precision"])).to(self.dtype)
            exit, before = self.branches.exit(stage, tap, before, self.about["score"] == "confidence")
            output = exit.logits
            confidence = None if exit.confidence is None else exit.confidence.float().sigmoid().cpu().numpy()
        return output.float().log_softmax(1).cpu().numpy(), confidence, values, before

    def rows(self, images: np.ndarray) -> torch.Tensor:
        """Make positions an index: see `calex.deploy.routing.Runtime`."""
        return torch.from_numpy(images).to(self.device)

    def fuse(self) -> Cascade:
        """Do in one kernel what follows a convolution, for speed: answers may differ in their last bits; gives itself."""
        for stage in self.stages:
            fuse(stage.graph)  # type: ignore[arg-type]
        return self

    def compile_stages(self, **options: Any) -> Cascade:
        """Compile each stage by `torch.compile`, for batches of any size; gives the cascade itself."""
        for stage in self.stages:
            stage.compile(dynamic=True, **options)
        return self

    def extra_repr(self) -> str:
        """Return what it is, in a line."""
        curves = self.sweep.curves
        return (
            f"{self.about['network']['name']} at {', '.join(self.about['taps'])}; {len(self.classes)} classes; at operating point "
            f"{self.point} of {len(self.sweep.parameters)}: accuracy {curves['val_accuracy'][self.point]:.4f} at "
            f"{curves['val_flops_fraction'][self.point]:.3f} of the FLOPs on validation images"
        )

    def __repr__(self) -> str:
        return f"Cascade({self.extra_repr()})"
