"""Answering a batch for real: after each stage the images that are answered are taken out, and the others go on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from calex.deploy.carrying import carry
from calex.simulation.exits import SoFar
from calex.simulation.exits_file import half
from calex.simulation.last import combined
from calex.simulation.rule import Rule
from calex.simulation.scores import score as score_of
from calex.simulation.scores import summary


class Answers(NamedTuple):
    """What a cascade answers B images of C classes; arrays, or tensors where a cascade of torch gives them.

    prediction : (B,) int64
        The class.
    probabilities : (B, C) float32
        Of the exit that answered.
    exit : (B,) int64
        Where the image left: the branch, from 0; K is the network itself, or with `last: combined` the network and the last branch.
    score : (B,) float32
        Of the exit that answered: the one that is compared with thresholds, or where the network answered and has no such
        score (`confidence`) its largest probability.
    """

    prediction: Any
    probabilities: Any
    exit: Any
    score: Any


class Runtime(Protocol):
    """What runs the stages of a cascade: torch or onnxruntime."""

    @property
    def carried(self) -> Sequence[Sequence[str]]:
        """What each stage is given, see `calex.deploy.carrying`."""
        ...

    def run(self, stage: int, values: Sequence[Any], before: Any) -> tuple[np.ndarray, np.ndarray | None, Sequence[Any], Any]:
        """Compute a stage from what is carried to it.

        Gives log-probabilities (n, C) float32; confidences (n,) float32 or None; what the next stage needs of the network, and
        of the exits, (n, …) or None.
        """

    def rows(self, images: np.ndarray) -> Any:
        """Make positions (n,) int64 an index into carried values."""


def route(runtime: Runtime, inputs: Any, rule: Rule, score: str, last: str) -> Answers:
    """Answer a batch.

    Parameters
    ----------
    runtime : Runtime
        Of K + 1 stages.
    inputs : (B, channels, S, S)
        What the network reads.
    rule : Rule
        By which images leave, at one operating point.
    score : str
        The method's score, from which the rule makes what it compares with its thresholds.
    last : {"backbone", "combined"}
        What answers where no branch does, see `calex.simulation.last`.
    """
    _, branches, classes = rule.thresholds.shape
    whole = getattr(rule.policy, "LOG_SOFTMAX", False)
    count = len(inputs)
    answers = Answers(
        np.zeros(count, np.int64), np.zeros((count, classes), np.float32), np.full(count, branches), np.zeros(count, np.float32)
    )
    images, before, so_far = np.arange(count), None, _nothing(count, classes, whole)
    values: Sequence[Any] = [inputs]
    of_branch = np.empty((0, classes), np.float32)  # the log-probabilities of the branch before
    for k in range(branches + 1):
        if not len(images):
            break
        log_probabilities, confidence, values, before = runtime.run(k, values, before)
        if k == branches and last == "combined":
            log_probabilities = combined(log_probabilities, of_branch)
        predicted = log_probabilities.argmax(1)
        name = "max_softmax" if score == "confidence" and confidence is None else score
        value = score_of(name, summary(log_probabilities, confidence), classes)
        so_far = _added(so_far, predicted, value, log_probabilities)
        leaving = rule.ready(so_far)[0] if k < branches else np.ones(len(images), bool)
        out = images[leaving]
        answers.prediction[out], answers.exit[out], answers.score[out] = predicted[leaving], k, value[leaving]
        answers.probabilities[out] = np.exp(log_probabilities[leaving])
        of_branch = log_probabilities[~leaving]
        if leaving.all() or not leaving.any():
            images = images[~leaving]
            continue
        staying = np.flatnonzero(~leaving)
        images, rows = images[staying], runtime.rows(staying)
        values = carry(values, runtime.carried[k + 1], rows, len(staying))
        before = None if before is None else before[rows]
        so_far = SoFar(*(None if part is None else part[:, staying] for part in so_far))  # type: ignore[arg-type]
    return answers


def _nothing(images: int, classes: int, whole: bool) -> SoFar:
    """What no exit has given yet."""
    empty = np.empty((0, images), np.float32)
    return SoFar(empty.astype(np.int64), empty, np.empty((0, images, classes), np.float16) if whole else None)


def _added(so_far: SoFar, predicted: np.ndarray, score: np.ndarray, log_probabilities: np.ndarray) -> SoFar:
    """What the exits so far gave, and one more; whole log-softmaxes are rounded as those are that a policy learnt from."""
    logs = so_far.log_probabilities
    return SoFar(
        np.concatenate([so_far.predictions, predicted[None]]),
        np.concatenate([so_far.scores, score[None]]),
        None if logs is None else np.concatenate([logs, half(log_probabilities)[None]]),
    )
