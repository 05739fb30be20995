"""What the trained branches predict for each image: all that calibration, evaluation and reports need, without torch.

One file a branch, `exits{k}.npz`. For each split, with V training views and V = 1 elsewhere:
`{split}_prediction` (V, N) int64, `{split}_score_{name}` (V, N) float32 for every score, `{split}_label` (N,)
int64, `{split}_backbone` (V, N) int64 (the backbone's prediction). Besides, in FLOPs of one image:
`flops_to_tap`, `flops_head`, `flops_confidence_head` (the head with its confidence part), `flops_backbone`. A branch
without a confidence head has neither that score nor its FLOPs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calex.errors import CalexError, suggestion
from calex.simulation.cost import Costs
from calex.simulation.scores import SCORES, scores
from calex.system.files import read_npz


class BranchPredictions(NamedTuple):
    """What one exit gives for N images: log-probabilities (N, C) float32, and confidences (N,) float32 in [0, 1] or None."""

    log_probabilities: np.ndarray
    confidence: np.ndarray | None


@dataclass(frozen=True)
class Exits:
    """K branches over N images of one split and view.

    Parameters
    ----------
    predictions : (K, N) int64
        The class that each branch predicts.
    scores : (K, N) float32
        In [0, 1], of the one score that is compared with thresholds.
    labels : (N,) int64
        The true classes.
    backbone : (N,) int64
        The class that the backbone predicts.
    classes : int
        C.
    costs : Costs
        FLOPs of each exit with that score.
    """

    predictions: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    backbone: np.ndarray
    classes: int
    costs: Costs

    def of(self, images: np.ndarray) -> Exits:
        """Select some of the images, by a mask (N,) or positions (n,)."""
        return replace(
            self,
            predictions=self.predictions[:, images],
            scores=self.scores[:, images],
            labels=self.labels[images],
            backbone=self.backbone[images],
        )

    def truth(self, correct: str) -> np.ndarray:
        """Look up what predictions are compared with, (N,): the `label` or the `backbone`'s prediction.

        Raises
        ------
        CalexError
            If `correct` is another word.
        """
        if correct not in ("label", "backbone"):
            raise CalexError(f"correct: unknown value '{correct}', known: backbone, label")
        return self.labels if correct == "label" else self.backbone


def content(
    predictions: Mapping[str, Sequence[BranchPredictions]],
    labels: Mapping[str, np.ndarray],
    backbone: Mapping[str, np.ndarray],
    classes: int,
    flops_to_tap: float,
    flops_head: float,
    flops_confidence_head: float | None,
    flops_backbone: float,
) -> dict[str, np.ndarray]:
    """Build the arrays of one branch's file.

    Parameters
    ----------
    predictions : {split: V records}
        The branch's, of each view.
    labels : {split: (N,) int64}
        The true classes.
    backbone : {split: (V, N) int64}
        The backbone's predictions.
    classes : int
        C.
    flops_to_tap, flops_head, flops_backbone : float
        FLOPs of one image: the backbone up to the tap, the head, the whole backbone.
    flops_confidence_head : float or None
        The head with its confidence part; None for a branch without one.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, views in predictions.items():
        arrays[f"{split}_prediction"] = np.stack([view.log_probabilities.argmax(1) for view in views]).astype(np.int64)
        by_view = [scores(*view) for view in views]
        for name in by_view[0]:
            arrays[f"{split}_score_{name}"] = np.stack([each[name] for each in by_view])
        arrays[f"{split}_label"], arrays[f"{split}_backbone"] = labels[split], backbone[split]
    flops = {"to_tap": flops_to_tap, "head": flops_head, "confidence_head": flops_confidence_head, "backbone": flops_backbone}
    known = {f"flops_{name}": np.array(value) for name, value in flops.items() if value is not None}
    return arrays | {"classes": np.array(classes)} | known


@dataclass(frozen=True)
class Predictions:
    """The classes that K branches and the backbone predict for N images of one split, without scores.

    Parameters
    ----------
    predictions : (K, N) int64
        The class that each branch predicts.
    labels, backbone : (N,) int64
        The true classes, and those that the backbone predicts.
    flops_backbone : float
        FLOPs of the whole backbone for one image.
    """

    predictions: np.ndarray
    labels: np.ndarray
    backbone: np.ndarray
    flops_backbone: float


def read(paths: Sequence[str | Path], split: str, score: str) -> Exits:
    """Read the exits of a cascade over a split, without augmented views (the first one of training images).

    Parameters
    ----------
    paths : sequence of paths
        exits1.npz … of branches 1..K, in order.
    split : {"train", "val", "test"}
        Whose images.
    score : {"confidence", "max_softmax", "margin", "entropy"}
        The score that thresholds are compared with; it decides which part of a head is paid for.

    Returns
    -------
    Exits
        K branches over N images.

    Raises
    ------
    CalexError
        If a file is damaged, holds other arrays than it should, or is about other images than the first one.

    Examples
    --------
    In the folder of a finished run:

    >>> folder = "results/digits/resnet18/calexnet/default/seed0"
    >>> exits = read([f"{folder}/exits{k}.npz" for k in (1, 2, 3)], "test", score="confidence")
    >>> exits.predictions.shape, exits.scores.dtype
    ((3, 400), dtype('float32'))
    """
    return read_views(paths, split, score)[0]


def read_views(paths: Sequence[str | Path], split: str, score: str) -> list[Exits]:
    """Read the exits of a cascade over each augmented view of a split, as `read` does."""
    if score not in SCORES:
        raise CalexError(f"score: unknown name '{score}', {suggestion(score, SCORES)}")
    head = "flops_confidence_head" if score == "confidence" else "flops_head"
    branches = _arrays(paths, split, f"{split}_score_{score}", "flops_to_tap", head)
    first = branches[0]
    costs = Costs(
        to_tap=tuple(float(branch["flops_to_tap"]) for branch in branches),
        head=tuple(float(branch[head]) for branch in branches),
        backbone=float(first["flops_backbone"]),
    )
    return [
        Exits(
            predictions=np.stack([branch[f"{split}_prediction"][view] for branch in branches]),
            scores=np.stack([branch[f"{split}_score_{score}"][view] for branch in branches]),
            labels=first[f"{split}_label"],
            backbone=first[f"{split}_backbone"][view],
            classes=int(first["classes"]),
            costs=costs,
        )
        for view in range(len(first[f"{split}_backbone"]))
    ]


def read_predictions(paths: Sequence[str | Path], split: str) -> Predictions:
    """Read what a cascade, or some of its branches, predict for a split, as `read` does but without a score."""
    branches = _arrays(paths, split)
    first = branches[0]
    return Predictions(
        predictions=np.stack([branch[f"{split}_prediction"][0] for branch in branches]),
        labels=first[f"{split}_label"],
        backbone=first[f"{split}_backbone"][0],
        flops_backbone=float(first["flops_backbone"]),
    )


def _arrays(paths: Sequence[str | Path], split: str, *more: str) -> list[dict[str, np.ndarray]]:
    """The checked arrays of each branch's file: those that all readers need, and some more."""
    same = (f"{split}_label", f"{split}_backbone", "classes")
    branches = [read_npz(path, [f"{split}_prediction", *same, "flops_backbone", *more]) for path in paths]
    for path, branch in zip(paths, branches, strict=True):
        _check(path, branch, split)
        if not all(np.array_equal(branch[name], branches[0][name]) for name in same):
            raise CalexError(f"{path}: made from other images than {paths[0]}; rerun train-branch for both")
    return branches


def _check(path: str | Path, branch: dict[str, np.ndarray], split: str) -> None:
    """Refuse arrays of other shapes and kinds: predictions are classes in range, scores lie in [0, 1]."""
    single = {name: array for name, array in branch.items() if name.startswith(("classes", "flops"))}
    for name, array in single.items():
        if array.ndim != 0 or array.dtype.kind not in "iuf" or not 0 <= array < np.inf:
            raise CalexError(f"{path}: '{name}' must be one number, not below 0; rerun train-branch")
    prediction, label, backbone = f"{split}_prediction", f"{split}_label", f"{split}_backbone"
    shape = branch[prediction].shape
    for name, expected in ((prediction, shape), (label, shape[1:]), (backbone, shape)):
        array = branch[name]
        if array.dtype.kind not in "iu" or len(shape) != 2 or array.shape != expected or 0 in shape:
            raise CalexError(f"{path}: '{name}' is {array.dtype} {array.shape}, not integers {expected}; rerun train-branch")
        if array.min() < 0 or array.max() >= branch["classes"]:
            raise CalexError(f"{path}: '{name}' names a class outside 0..{int(branch['classes']) - 1}; rerun train-branch")
    for name in (name for name in branch if name.startswith(f"{split}_score_")):
        scores = branch[name]
        if scores.dtype.kind != "f" or scores.shape != shape:
            raise CalexError(f"{path}: '{name}' is {scores.dtype} {scores.shape}, not floats {shape}; rerun train-branch")
        if not ((scores >= 0) & (scores <= 1)).all():
            raise CalexError(f"{path}: '{name}' has values that are not in [0, 1]; rerun train-branch")
