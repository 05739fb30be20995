"""Whether a frozen network's answers on training images are what a working one would give, and what may be wrong if not."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
from scipy.optimize import linear_sum_assignment

from calex.backbones.metadata import shortened

SIGMAS = 3.0  # standard errors by which a difference has to be beyond chance
NOTABLE = 0.1  # share of right answers that another order of classes, or another normalisation, has to add
MARGIN = 0.05  # share by which an accuracy is far below what was expected


def majority(labels: np.ndarray) -> float:
    """Return the share of the largest class: what it scores to answer always the same."""
    return float(np.bincount(labels).max() / len(labels))


def near_chance(right: np.ndarray, labels: np.ndarray) -> bool:
    """Tell whether a share of right answers is no better than the majority's, by a one-sided test at `SIGMAS`.

    right: (N,) bool. labels: (N,) int64. Of few images the test can say nothing: then right answers to nine in ten of
    what the majority gets wrong are enough.
    """
    share = majority(labels)
    beyond = min(SIGMAS * math.sqrt(share * (1 - share) / len(labels)), 0.9 * (1 - share))
    return float(right.mean()) <= share + beyond


def assignment(answers: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Assign a class to each answer, one to one, so that as many as possible are right: (classes,) int64."""
    confusion = np.zeros((classes, classes), np.int64)
    np.add.at(confusion, (answers, labels), 1)
    return linear_sum_assignment(confusion, maximize=True)[1].astype(np.int64)


def reordered(answers: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Judge answers with classes in the order that fits best, each half of the images by the order of the other: (N,) bool.

    So an order that fits by chance gains nothing.
    """
    half = np.empty(len(labels), np.int64)
    half[np.argsort(labels, kind="stable")] = np.arange(len(labels)) % 2
    right = np.zeros(len(labels), bool)
    for part in (0, 1):
        meant = assignment(answers[half != part], labels[half != part], classes)
        right[half == part] = meant[answers[half == part]] == labels[half == part]
    return right


def better(other: np.ndarray, right: np.ndarray) -> bool:
    """Tell whether other answers are right notably more often, on the same images, than chance explains. Both: (N,) bool."""
    gain = other.astype(np.float64) - right
    spread = gain.std() / math.sqrt(len(gain))
    return float(gain.mean()) > max(NOTABLE, SIGMAS * spread)


def far_below(right: np.ndarray, expected: float) -> bool:
    """Tell whether a share of right answers is below an expected one by more than a margin and than chance explains."""
    share = float(right.mean())
    return expected - share > max(MARGIN, SIGMAS * math.sqrt(max(share * (1 - share), 1 / len(right)) / len(right)))


def order_of_classes(answers: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> str | None:
    """Give a sentence, if the answers would be right in another order of classes: one of the two usual ones, or the best."""
    right = answers == labels
    fitted = reordered(answers, labels, len(names))
    best, order, how = fitted, assignment(answers, labels, len(names)), "in another order"
    for way, key in (("sorted as text", str), ("sorted by number", natural)):
        usual = np.array(sorted(range(len(names)), key=lambda position: key(names[position])))
        other = usual[answers] == labels
        if other.mean() >= best.mean():  # to be sorted so is likelier than any one of the other orders
            best, order, how = other, usual, way
    if not better(best, right):
        return None
    return (
        f"with the classes {how} it would be right for {best.mean():.0%}; "
        f"set `classes: {shortened([names[position] for position in order])}` in the dataset's source, the order that it was trained with"
    )


def natural(name: str) -> list[tuple[int, int, str]]:
    """Make a key that sorts numbers in names by their value: class2 before class10."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def doubtful_order(names: Sequence[str]) -> str:
    """Describe the order of classes as a suspect; names with numbers have two usual ones."""
    as_text, by_number = sorted(names), sorted(names, key=natural)
    if as_text == by_number:
        return f"the order of classes, here {shortened(names)}"
    other = by_number if list(names) == as_text else as_text
    how = "by number" if other is by_number else "as text"
    return f"the order of classes, here {shortened(names)}, which sorted {how} would be {shortened(other)} (`classes:` of the source)"
