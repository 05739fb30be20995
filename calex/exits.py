"""What the trained branches say about each image: all that calibration, evaluation and reports need, without torch.

One file a branch, `exits{k}.npz`. For each split, with V training views and V = 1 elsewhere:
`{split}_prediction` (V, N) int64, `{split}_score_{name}` (V, N) float32 for every score, `{split}_label` (N,)
int64, `{split}_backbone` (V, N) int64 (the backbone's answer). Besides, in FLOPs of one image:
`flops_to_tap`, `flops_head`, `flops_confidence_head` (the head with its confidence part), `flops_backbone`. A branch
without a confidence head has neither that score nor its FLOPs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from calex.cost import Costs
from calex.errors import CalexError, suggestion
from calex.files import read_npz
from calex.scores import SCORES, scores


@dataclass(frozen=True)
class Exits:
    """K branches over N images of one split and view.

    predictions: (K, N) int64. scores: (K, N) float32, of the one score that is thresholded. labels, backbone:
    (N,) int64. classes: C. costs: what each exit costs with that score.
    """

    predictions: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    backbone: np.ndarray
    classes: int
    costs: Costs

    def of(self, images: np.ndarray) -> Exits:
        """The same exits over some of the images: a mask or positions (n,)."""
        return replace(
            self,
            predictions=self.predictions[:, images],
            scores=self.scores[:, images],
            labels=self.labels[images],
            backbone=self.backbone[images],
        )

    def truth(self, correct: str) -> np.ndarray:
        """(N,): what counts as correct, the `label` or the `backbone`'s answer."""
        if correct not in ("label", "backbone"):
            raise CalexError(f"correct: unknown value '{correct}', known: backbone, label")
        return self.labels if correct == "label" else self.backbone


def content(
    said: dict[str, Sequence[tuple[np.ndarray, np.ndarray | None]]],
    labels: dict[str, np.ndarray],
    backbone: dict[str, np.ndarray],
    classes: int,
    to_tap: float,
    head: float,
    confidence_head: float | None,
    whole: float,
) -> dict[str, np.ndarray]:
    """What one branch's file holds.

    By split: `said`, the log-probabilities (N, C) and confidences (N,) or None of each view, `labels` (N,) int64 and
    `backbone` (V, N) int64. The rest are FLOPs: up to the tap, of the head, with its confidence part, of the backbone.
    """
    arrays: dict[str, np.ndarray] = {}
    for split, views in said.items():
        arrays[f"{split}_prediction"] = np.stack([answers.argmax(1) for answers, _ in views]).astype(np.int64)
        by_view = [scores(*each) for each in views]
        for name in by_view[0]:
            arrays[f"{split}_score_{name}"] = np.stack([each[name] for each in by_view])
        arrays[f"{split}_label"], arrays[f"{split}_backbone"] = labels[split], backbone[split]
    flops = {"to_tap": to_tap, "head": head, "confidence_head": confidence_head, "backbone": whole}
    known = {f"flops_{name}": np.array(value) for name, value in flops.items() if value is not None}
    return arrays | {"classes": np.array(classes)} | known


def read(paths: Sequence[str | Path], split: str, score: str, view: int = 0) -> Exits:
    """The exits of branches 1..K from their files, in order.

    Raises CalexError for a file that is damaged, holds other arrays than it should, or speaks of other images.
    """
    if score not in SCORES:
        raise CalexError(f"score: unknown name '{score}', {suggestion(score, SCORES)}")
    head = "flops_confidence_head" if score == "confidence" else "flops_head"
    answers = [f"{split}_prediction", f"{split}_score_{score}", f"{split}_label", f"{split}_backbone"]
    branches = [read_npz(path, [*answers, "classes", "flops_to_tap", head, "flops_backbone"]) for path in paths]
    for path, branch in zip(paths, branches, strict=True):
        _check(path, branch, *answers)
        for same in (f"{split}_label", f"{split}_backbone", "classes"):
            if not np.array_equal(branch[same], branches[0][same]):
                raise CalexError(f"{path}: made from other images than {paths[0]}; rerun train-branch for both")
    first = branches[0]
    return Exits(
        predictions=np.stack([branch[f"{split}_prediction"][view] for branch in branches]),
        scores=np.stack([branch[f"{split}_score_{score}"][view] for branch in branches]),
        labels=first[f"{split}_label"],
        backbone=first[f"{split}_backbone"][view],
        classes=int(first["classes"]),
        costs=Costs(
            to_tap=tuple(float(branch["flops_to_tap"]) for branch in branches),
            head=tuple(float(branch[head]) for branch in branches),
            backbone=float(first["flops_backbone"]),
        ),
    )


def _check(path: str | Path, branch: dict[str, np.ndarray], prediction: str, score: str, label: str, backbone: str) -> None:
    """See that a branch's arrays are of one shape and kind: whole answers in their range, scores that can be compared."""
    single = {name: array for name, array in branch.items() if name.startswith(("classes", "flops"))}
    for name, array in single.items():
        if array.ndim != 0 or array.dtype.kind not in "iuf" or not 0 <= array < np.inf:
            raise CalexError(f"{path}: '{name}' must be one number, not below 0; rerun train-branch")
    shape = branch[prediction].shape
    for name, expected in ((prediction, shape), (label, shape[1:]), (backbone, shape)):
        array = branch[name]
        if array.dtype.kind not in "iu" or len(shape) != 2 or array.shape != expected or 0 in shape:
            raise CalexError(f"{path}: '{name}' is {array.dtype} {array.shape}, not integers {expected}; rerun train-branch")
        if array.min() < 0 or array.max() >= branch["classes"]:
            raise CalexError(f"{path}: '{name}' names a class outside 0..{int(branch['classes']) - 1}; rerun train-branch")
    values = branch[score]
    if values.dtype.kind != "f" or values.shape != shape:
        raise CalexError(f"{path}: '{score}' is {values.dtype} {values.shape}, not floats {shape}; rerun train-branch")
    if not ((values >= 0) & (values <= 1)).all():
        raise CalexError(f"{path}: '{score}' has values that are not in [0, 1]; rerun train-branch")


def views(path: str | Path, split: str) -> int:
    """How many views of each image of a split a file speaks of."""
    return len(read_npz(path, [f"{split}_prediction"])[f"{split}_prediction"])
