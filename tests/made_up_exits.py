"""Exits of made-up branches, for the tests of what calibrates, weighs, runs and measures them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from calex.simulation import exits_file
from calex.simulation.cost import Costs
from calex.simulation.exits import Exits
from calex.system.files import write_npz

TO_TAP, HEAD, BACKBONE = (10.0, 30.0, 60.0), (1.0, 2.0, 4.0), 100.0


def exits(
    predictions: list[list[int]], scores: list[list[float]], labels: list[int], backbone: list[int], classes: int
) -> Exits:
    """Exits spelled out by hand, a list for each branch."""
    return Exits(
        predictions=np.array(predictions, np.int64).reshape(len(predictions), len(labels)),
        scores=np.array(scores, np.float32).reshape(len(predictions), len(labels)),
        labels=np.array(labels, np.int64),
        backbone=np.array(backbone, np.int64),
        classes=classes,
        costs=Costs(TO_TAP[: len(predictions)], HEAD[: len(predictions)], BACKBONE),
    )


@st.composite
def any_exits(draw: st.DrawFn, images: tuple[int, int] = (0, 30), classes: int = 4, branches: int = 3) -> Exits:
    """Any exits at all: few distinct scores, so that ties are common, and answers that are often right."""
    n = draw(st.integers(*images))
    c, k = draw(st.integers(1, classes)), draw(st.integers(1, branches))
    labels = draw(arrays.arrays(np.int64, n, elements=st.integers(0, c - 1)))
    guesses = draw(arrays.arrays(np.int64, (k + 1, n), elements=st.integers(0, c - 1)))
    right = draw(arrays.arrays(np.bool_, (k + 1, n)))
    answers = np.where(right, labels, guesses)
    scores = draw(arrays.arrays(np.int64, (k, n), elements=st.integers(0, 5))).astype(np.float32) / np.float32(5)
    return Exits(answers[:-1], scores, labels, answers[-1], c, Costs(TO_TAP[:k], HEAD[:k], BACKBONE))


def random_exits(seed: int = 0, images: int = 400, classes: int = 5, branches: int = 3, levels: int = 20) -> Exits:
    """Plausible exits: deeper branches are more often right, and a high score is more often right than a low one."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, images)
    difficulty = draw.random(images)
    skill = np.linspace(0.5, 0.9, branches + 1)[:, None]
    right = draw.random((branches + 1, images)) < np.clip(1.4 * skill - 0.6 * difficulty + 0.1, 0, 1)
    answers = np.where(right, labels, draw.integers(0, classes, right.shape))
    sure = np.clip(0.6 * right[:-1] + 0.5 * draw.random((branches, images)) - 0.2 * difficulty, 0, 1)
    scores = (np.rint(sure * levels) / levels).astype(np.float32)
    return Exits(answers[:-1], scores, labels, answers[-1], classes, Costs(TO_TAP[:branches], HEAD[:branches], BACKBONE))


def write(folder: Path, splits: dict[str, list[Exits]]) -> list[Path]:
    """The exits{k}.npz of some splits, each given as one Exits a view, as `train-branch` writes them; scores are confidences."""
    first = next(iter(splits.values()))[0]
    backbone = {split: np.stack([view.backbone for view in views]) for split, views in splits.items()}
    paths = []
    for k in range(len(first.scores)):
        content = exits_file.content(
            {
                split: [
                    exits_file.kept(
                        exits_file.BranchPredictions(
                            log_softmax(view.predictions[k], view.scores[k], view.classes), view.scores[k]
                        ),
                        whole=split != "train",
                    )
                    for view in views
                ]
                for split, views in splits.items()
            },
            {split: views[0].labels for split, views in splits.items()},
            backbone,
            TO_TAP[k],
            HEAD[k],
            2 * HEAD[k],
            BACKBONE,
            {
                split: exits_file.half(
                    np.stack([log_softmax(view.backbone, np.ones(len(view.backbone)), view.classes) for view in views])
                )
                for split, views in splits.items()
                if split != "train" and k == 0
            },
        )
        paths.append(folder / f"exits{k + 1}.npz")
        write_npz(paths[-1], content)
    return paths


def log_softmax(predictions: np.ndarray, scores: np.ndarray, classes: int) -> np.ndarray:
    """(N, C) float32 that answers these classes, the more surely the higher the score."""
    logits = (1 + 4 * scores)[:, None] * (np.arange(classes) == predictions[:, None])
    logits = logits + 0.1 * np.cos(np.arange(classes) + predictions[:, None])  # no two classes alike
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)
