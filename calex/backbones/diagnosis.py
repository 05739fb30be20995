"""What to tell a user whose network answers training images badly: what was seen, what would correct it, the likely causes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from calex.backbones import accuracy

TRIED = 512  # training images on which other normalisations are tried

# Mean and standard deviation that networks of other libraries are trained with; the first for three channels only.
NORMALISATIONS: list[tuple[list[float], list[float]]] = [
    ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),  # of ImageNet
    ([0.5], [0.5]),  # pixels between −1 and 1
    ([0.0], [1.0]),  # between 0 and 1
    ([0.0], [1 / 255]),  # between 0 and 255
]


def of_training(answers: np.ndarray, labels: np.ndarray) -> list[str]:
    """Warn of a network that was trained here. answers, labels: (N,) int64, of the images that it was trained on."""
    right = answers == labels
    if not accuracy.near_chance(right, labels):
        return []
    return [
        f"after training, {_share(right)} images that it was trained on are answered right, no better than always "
        f"naming the largest class ({accuracy.majority(labels):.1%}); look at training.learning_rate, training.epochs and normalisation"
    ]


def of_checkpoint(
    answers: np.ndarray,
    labels: np.ndarray,
    names: list[str],
    chosen: dict[str, Any],
    others: list[str],
    transform: dict[str, Any],
    predict: Callable[[np.ndarray, dict[str, Any]], np.ndarray],
) -> list[str]:
    """Warn of a checkpoint, from its answers on the training images.

    answers, labels: (N,) int64. names: of the classes. chosen: the backbone's settings. others: keys of other weights in
    the file. transform: `to_input`'s size, mean and std. predict: the network's answers on some of these images, given by
    their positions, with another transform.
    """
    right = answers == labels
    expected = chosen.get("expected_accuracy")
    if accuracy.near_chance(right, labels):
        seen = f", no better than always naming the largest class ({accuracy.majority(labels):.1%})"
    elif expected is not None and accuracy.far_below(right, expected):
        seen = f", and expected_accuracy says {expected:.1%}"
    else:
        seen = ""
    cause = accuracy.order_of_classes(answers, labels, names)
    if not seen and cause is None:
        return []
    if cause is None:
        cause = _other_normalisation(right, labels, transform, predict) or "look at " + "; ".join(
            suspects(names, chosen, others, transform)
        )
    return [f"the checkpoint answers {_share(right)} training images right{seen}; {cause}"]


def of_probe(
    answers: np.ndarray, labels: np.ndarray, chosen: dict[str, Any], others: list[str], transform: dict[str, Any]
) -> list[str]:
    """Warn of a checkpoint with a new last layer, from its answers on validation images: training images any features fit.

    The order of classes is the dataset's own, and another normalisation would need another layer: neither is tried. The
    parameters are those of `of_checkpoint`.
    """
    right, expected = answers == labels, chosen.get("expected_accuracy")
    if accuracy.near_chance(right, labels):
        seen = f"no better than always naming the largest class ({accuracy.majority(labels):.1%})"
    elif expected is not None and accuracy.far_below(right, expected):
        seen = f"and expected_accuracy says {expected:.1%}"
    else:
        return []
    likely = "; ".join([*_how_it_is_read(chosen, others, transform), "whether the weights are those of a trained network"])
    return [f"with its new last layer the checkpoint answers {_share(right)} validation images right, {seen}; look at {likely}"]


def suspects(names: list[str], chosen: dict[str, Any], others: list[str], transform: dict[str, Any]) -> list[str]:
    """List what is usually wrong with weights that are right elsewhere, for this config."""
    likely = [accuracy.doubtful_order(names), *_how_it_is_read(chosen, others, transform)]
    if "train" not in chosen["trained_on"]:
        likely.append(f"trained_on, {chosen['trained_on']}: it may never have seen such images")
    return likely


def _how_it_is_read(chosen: dict[str, Any], others: list[str], transform: dict[str, Any]) -> list[str]:
    """List what may be wrong in how images are given to weights, and which weights were taken."""
    told = chosen["normalisation"] or chosen.get("weights")
    measured = "" if told else " as measured on the training images, not what the weights were trained with"
    likely = [
        f"normalisation, here {{mean: {_rounded(transform['mean'])}, std: {_rounded(transform['std'])}}}{measured}",
        f"input_size, here {transform['size']}",
    ]
    if others:
        likely.append(f"other weights in the same file (checkpoint_key: {', '.join(others)})")
    return likely


def _other_normalisation(
    right: np.ndarray,
    labels: np.ndarray,
    transform: dict[str, Any],
    predict: Callable[[np.ndarray, dict[str, Any]], np.ndarray],
) -> str | None:
    """Give a sentence, if the answers would be right with another normalisation in use; the best of them."""
    some = np.random.default_rng(0).permutation(len(labels))[:TRIED]
    channels, best = len(transform["mean"]), (float(right[some].mean()), "")
    for mean, std in NORMALISATIONS:
        if len(mean) not in (1, channels):
            continue
        tried = {"mean": mean * (channels // len(mean)), "std": std * (channels // len(std))}
        other = predict(some, transform | tried) == labels[some]
        if other.mean() > best[0] and accuracy.better(other, right[some]):
            best = (float(other.mean()), f"with `normalisation: {{mean: {tried['mean']}, std: {_rounded(tried['std'])}}}` ")
    return f"{best[1]}it would be right for {best[0]:.0%}" if best[1] else None


def _share(right: np.ndarray) -> str:
    return f"{right.mean():.1%} of {len(right)}"


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 6) for value in values]
