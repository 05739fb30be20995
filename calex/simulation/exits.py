"""What the trained branches predict for each image: all that calibration, evaluation and reports need, without torch.

One file per branch, `exits{k}.npz`, whose arrays `calex.simulation.exits_file` describes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calex.errors import CalexError, suggestion
from calex.simulation import exits_file
from calex.simulation.cost import Costs
from calex.simulation.last import LAST, combined
from calex.simulation.scores import PART, SCORES, Summary
from calex.simulation.scores import score as compute_score
from calex.system.files import npz_names


class SoFar(NamedTuple):
    """What the first k exits gave for N images, from which a policy may decide at the k-th.

    predictions: (k, N) int64. scores: (k, N) float32, the method's. log_probabilities: (k, N, C) float16 or float32, the
    whole log-softmax, for policies that read it (`LOG_SOFTMAX = True`), else None.
    """

    predictions: np.ndarray
    scores: np.ndarray
    log_probabilities: np.ndarray | None = None


@dataclass(frozen=True)
class Exits:
    """K branches over N images of one split and view.

    Parameters
    ----------
    predictions : (K, N) int64
        The class that each branch predicts.
    scores : (K, N) float32, or (P, K, N)
        What thresholds are compared with: one score in [0, 1], or whatever a policy makes of it, perhaps for each of P
        operating points.
    labels : (N,) int64
        The true classes.
    backbone : (N,) int64
        The class that the backbone predicts.
    classes : int
        C.
    costs : Costs
        FLOPs of each exit with that score.
    log_probabilities : (K, N, C) float16, optional
        The whole log-softmax of each branch, for policies that read it.
    last : (N,) int64, optional
        The class that is answered where no branch answers; without it the backbone's.
    """

    predictions: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    backbone: np.ndarray
    classes: int
    costs: Costs
    log_probabilities: np.ndarray | None = None
    last: np.ndarray | None = None

    @property
    def answers(self) -> np.ndarray:
        """The class that each exit answers, (K + 1, N) int64: of each branch, and of the end."""
        return np.vstack([self.predictions, self.backbone if self.last is None else self.last])

    @property
    def so_far(self) -> SoFar:
        """What all branches gave."""
        return SoFar(self.predictions, self.scores, self.log_probabilities)

    def of(self, images: np.ndarray) -> Exits:
        """Select some of the images, by a mask (N,) or positions (n,)."""
        return replace(
            self,
            predictions=self.predictions[:, images],
            scores=self.scores[..., images],
            labels=self.labels[images],
            backbone=self.backbone[images],
            log_probabilities=None if self.log_probabilities is None else self.log_probabilities[:, images],
            last=None if self.last is None else self.last[images],
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


def read(paths: Sequence[str | Path], split: str, score: str, whole: bool = False, last: str = "backbone") -> Exits:
    """Read the exits of a cascade over a split, without augmented views (the first one of training images).

    Parameters
    ----------
    paths : sequence of paths
        exits1.npz … of branches 1..K, in order.
    split : {"train", "val", "test"}
        Whose images.
    score : {"confidence", "max_softmax", "margin", "entropy"}
        The score that thresholds are compared with; it decides which part of a head is paid for.
    whole : bool
        Whether to read each branch's whole log-softmax too.
    last : {"backbone", "combined"}
        What answers where no branch does, see `calex.simulation.last`.

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
    if last not in LAST:
        raise CalexError(f"last: unknown name '{last}', {suggestion(last, LAST)}")
    exits = read_views(paths, split, score)[0]
    if last == "combined":
        both = (read_backbone_log_softmax(paths[0], split), exits_file.log_softmax(paths[-1], split))
        exits = replace(exits, last=combined(*both).argmax(1))
    return replace(exits, log_probabilities=read_log_softmax(paths, split)) if whole else exits


def read_views(paths: Sequence[str | Path], split: str, score: str) -> list[Exits]:
    """Read the exits of a cascade over each augmented view of a split, as `read` does."""
    if score not in SCORES:
        raise CalexError(f"score: unknown name '{score}', {suggestion(score, SCORES)}")
    head = "flops_confidence_head" if score == "confidence" else "flops_head"
    branches = exits_file.arrays(paths, split, [PART[score], "flops_to_tap", head])
    first = branches[0]
    classes = int(first["classes"])
    costs = Costs(
        to_tap=tuple(float(branch["flops_to_tap"]) for branch in branches),
        head=tuple(float(branch[head]) for branch in branches),
        backbone=float(first["flops_backbone"]),
    )
    return [
        Exits(
            predictions=np.stack([branch[f"{split}_prediction"][view] for branch in branches]),
            scores=np.stack([_score(score, branch[f"{split}_{PART[score]}"][view], classes) for branch in branches]),
            labels=first[f"{split}_label"],
            backbone=first[f"{split}_backbone"][view],
            classes=classes,
            costs=costs,
        )
        for view in range(len(first[f"{split}_backbone"]))
    ]


def read_log_softmax(paths: Sequence[str | Path], split: str) -> np.ndarray:
    """Read the whole log-softmax of each branch over a split: (K, N, C) float16."""
    return np.stack([exits_file.log_softmax(path, split) for path in paths])


def read_backbone_log_softmax(first: str | Path, split: str) -> np.ndarray:
    """Read the backbone's whole log-softmax over a split, (N, C) float16, from the first branch's file."""
    return exits_file.log_softmax(first, split, "backbone_log_softmax")


def read_scores(paths: Sequence[str | Path], split: str) -> dict[str, np.ndarray]:
    """Read every score that all of some branches have, (K, N) float32 by name."""
    held = [name for name in SCORES if all(f"{split}_{PART[name]}" in npz_names(path) for path in paths)]
    return {name: read(paths, split, name).scores for name in held}


def read_predictions(paths: Sequence[str | Path], split: str) -> Predictions:
    """Read what a cascade, or some of its branches, predict for a split, as `read` does but without a score."""
    branches = exits_file.arrays(paths, split)
    first = branches[0]
    return Predictions(
        predictions=np.stack([branch[f"{split}_prediction"][0] for branch in branches]),
        labels=first[f"{split}_label"],
        backbone=first[f"{split}_backbone"][0],
        flops_backbone=float(first["flops_backbone"]),
    )


def _score(name: str, part: np.ndarray, classes: int) -> np.ndarray:
    parts = {"top": None, "entropy": None, "confidence": None} | {PART[name]: part}
    return compute_score(name, Summary(**parts), classes)
