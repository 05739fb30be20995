"""One branch's file, `exits{k}.npz`: its arrays, what they must look like, and how they are written and checked.

For each split, with V training views and V = 1 elsewhere, N images and C classes:

- `{split}_prediction` (V, N) int64; `{split}_label` (N,) int64; `{split}_backbone` (V, N) int64, the backbone's prediction;
- what scores are computed from, exactly: `{split}_top` (V, N, 2) float32, the log-probabilities of the likeliest and the
  second class; `{split}_entropy` (V, N) float64, in nats; `{split}_confidence` (V, N) float32, of a branch that has one;
- `{split}_log_softmax` (V, N, C) float16, the branch's, and in the first branch's file `{split}_backbone_log_softmax`, the
  backbone's: of val and test, and of train if `exits.train_log_softmax` says so.

Besides `format`, `classes`, and in FLOPs of one image `flops_to_tap`, `flops_head`, `flops_confidence_head` (the head with
its confidence part, of a branch that has one), `flops_backbone`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from calex.errors import CalexError
from calex.simulation.scores import Summary, summary
from calex.system.files import npz_names, read_npz

FORMAT = 2  # 1 held finished scores instead of what they are computed from
LEAST = float(np.finfo(np.float16).min)
ROUNDING = 1e-3  # a log-probability may exceed 0 by so much


class BranchPredictions(NamedTuple):
    """What one exit gives for N images: log-probabilities (N, C) float32, and confidences (N,) float32 in [0, 1] or None."""

    log_probabilities: np.ndarray
    confidence: np.ndarray | None


class Kept(NamedTuple):
    """What a file keeps of one exit's predictions for N images of one view.

    classes: C. prediction: (N,) int64. summary: what scores are made of. log_softmax: (N, C) float16, or None.
    """

    classes: int
    prediction: np.ndarray
    summary: Summary
    log_softmax: np.ndarray | None


def kept(predictions: BranchPredictions, whole: bool) -> Kept:
    """Reduce an exit's predictions to what its file keeps; `whole`: the log-softmax of all classes too.

    Batch by batch, because all training images' log-softmax may be larger than the memory.
    """
    log_p = predictions.log_probabilities
    answers = log_p.argmax(1).astype(np.int64)
    return Kept(log_p.shape[1], answers, summary(*predictions), half(log_p) if whole else None)


def joined(batches: Sequence[Kept]) -> Kept:
    """Put what is kept of several batches into one."""

    def all_of(parts: Sequence[np.ndarray | None]) -> np.ndarray | None:
        given = [part for part in parts if part is not None]
        return np.concatenate(given) if given else None

    whole = Summary(*(all_of(parts) for parts in zip(*(batch.summary for batch in batches), strict=True)))
    answers = np.concatenate([batch.prediction for batch in batches])
    return Kept(batches[0].classes, answers, whole, all_of([batch.log_softmax for batch in batches]))


def content(
    predictions: Mapping[str, Sequence[Kept]],
    labels: Mapping[str, np.ndarray],
    backbone: Mapping[str, np.ndarray],
    flops_to_tap: float,
    flops_head: float,
    flops_confidence_head: float | None,
    flops_backbone: float,
    backbone_log_softmax: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Build the arrays of one branch's file.

    Parameters
    ----------
    predictions : {split: V records}
        What is kept of the branch's, of each view.
    labels : {split: (N,) int64}
        The true classes.
    backbone : {split: (V, N) int64}
        The backbone's predictions.
    flops_to_tap, flops_head, flops_backbone : float
        FLOPs of one image: the backbone up to the tap, the head, the whole backbone.
    flops_confidence_head : float or None
        The head with its confidence part; None for a branch without one.
    backbone_log_softmax : {split: (V, N, C) float16}
        The backbone's, of the splits of which it is kept; empty but for the first branch.
    """
    arrays: dict[str, np.ndarray] = {"format": np.array(FORMAT)}
    for split, views in predictions.items():
        arrays["classes"] = np.array(views[0].classes)
        arrays[f"{split}_prediction"] = np.stack([view.prediction for view in views])
        parts = [view.summary._asdict() for view in views]
        arrays |= {
            f"{split}_{name}": np.stack([each[name] for each in parts]) for name, part in parts[0].items() if part is not None
        }
        arrays[f"{split}_label"], arrays[f"{split}_backbone"] = labels[split], backbone[split]
        halves = [view.log_softmax for view in views if view.log_softmax is not None]
        if halves:
            arrays[f"{split}_log_softmax"] = np.stack(halves)
    arrays |= {f"{split}_backbone_log_softmax": values for split, values in backbone_log_softmax.items()}
    flops = {"to_tap": flops_to_tap, "head": flops_head, "confidence_head": flops_confidence_head, "backbone": flops_backbone}
    return arrays | {f"flops_{name}": np.array(value) for name, value in flops.items() if value is not None}


def half(log_probabilities: np.ndarray) -> np.ndarray:
    """The same in float16, in which the least stands for all below it."""
    return np.maximum(log_probabilities, LEAST).astype(np.float16)


def arrays(paths: Sequence[str | Path], split: str, names: Collection[str] = ()) -> list[dict[str, np.ndarray]]:
    """Read the checked arrays of each branch's file: those that all readers need, and some more, named without their split.

    Raises
    ------
    CalexError
        If a file is damaged, of another format, holds other arrays than it should, or is about other images than the first.
    """
    same = (f"{split}_label", f"{split}_backbone", "classes")
    more = [name if name.startswith("flops") else f"{split}_{name}" for name in names]
    branches = []
    for path in paths:
        if "format" not in npz_names(path):
            raise CalexError(f"{path}: written by an older calex, without what scores are computed from; rerun train-branch")
        branches.append(read_npz(path, ["format", f"{split}_prediction", *same, "flops_backbone", *more]))
        if int(branches[-1]["format"].item(0)) != FORMAT:
            raise CalexError(f"{path}: its format is {branches[-1]['format']}, not {FORMAT}; rerun train-branch")
        _check(path, branches[-1], split)
        if not all(np.array_equal(branches[-1][name], branches[0][name]) for name in same):
            raise CalexError(f"{path}: made from other images than {paths[0]}; rerun train-branch for both")
    return branches


def log_softmax(path: str | Path, split: str, of: str = "log_softmax") -> np.ndarray:
    """Read the whole log-softmax of a split, (N, C) float16, of its first view; `of` is another name for the backbone's."""
    if f"{split}_{of}" not in npz_names(path):
        raise CalexError(
            f"{path}: holds no whole log-softmax of {split} images; rerun train-branch, for train with exits.train_log_softmax: true"
        )
    (branch,) = arrays([path], split, [of])
    return branch[f"{split}_{of}"][0]


def _check(path: str | Path, branch: dict[str, np.ndarray], split: str) -> None:
    """Refuse arrays of other shapes and kinds, classes that are out of range, and numbers that are no log-probabilities."""

    def refuse(name: str, fault: str) -> None:
        raise CalexError(f"{path}: '{name}' {fault}; rerun train-branch")

    for name, array in branch.items():
        if name.startswith(("classes", "flops")) and (
            array.ndim != 0 or array.dtype.kind not in "iuf" or not 0 <= array < np.inf
        ):
            refuse(name, "must be one number, not below 0")
    classes = int(branch["classes"])
    shape = branch[f"{split}_prediction"].shape
    for name, expected in (("prediction", shape), ("label", shape[1:]), ("backbone", shape)):
        array = branch[f"{split}_{name}"]
        if array.dtype.kind not in "iu" or len(shape) != 2 or array.shape != expected or 0 in shape:
            refuse(f"{split}_{name}", f"is {array.dtype} {array.shape}, not integers {expected}")
        if array.min() < 0 or array.max() >= classes:
            refuse(f"{split}_{name}", f"names a class outside 0..{classes - 1}")
    # Bounds that no log-probability, entropy or confidence exceeds.
    wide = (*shape, classes)
    kinds = {
        "confidence": (shape, 0.0, 1.0, "has values that are not in [0, 1]"),
        "entropy": (shape, -ROUNDING, np.log(classes) + ROUNDING, "has values that are not in [0, log C]"),
        "top": ((*shape, 2), -np.inf, ROUNDING, "has values that are no log-probabilities"),
        "log_softmax": (wide, -np.inf, ROUNDING, "has values that are no log-probabilities"),
        "backbone_log_softmax": (wide, -np.inf, ROUNDING, "has values that are no log-probabilities"),
    }
    for part, (expected, low, high, fault) in kinds.items():
        if f"{split}_{part}" not in branch:
            continue
        array = branch[f"{split}_{part}"]
        if array.dtype.kind != "f" or array.shape != expected:
            refuse(f"{split}_{part}", f"is {array.dtype} {array.shape}, not floats {expected}")
        if not ((array >= low) & (array <= high)).all():
            refuse(f"{split}_{part}", fault)
