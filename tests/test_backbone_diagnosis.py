"""Weights that answer training images badly: what is told, and that it is not told of weights that are right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calex.backbones import accuracy, diagnosis, metadata
from calex.errors import CalexError

CLASSES, EACH = 12, 20
NAMES = [str(n) for n in range(CLASSES)]
LABELS = np.repeat(np.arange(CLASSES), EACH)
SETTINGS = {"normalisation": None, "trained_on": ["train"], "input_size": 8, "expected_accuracy": None}
TRANSFORM = {"size": 8, "mean": [0.4, 0.4, 0.4], "std": [0.2, 0.2, 0.2]}


def answered(share: float, labels: np.ndarray = LABELS, classes: int = CLASSES, seed: int = 0) -> np.ndarray:
    """Answers of which about a share is right."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random(len(labels)) < share, labels, generator.integers(0, classes, len(labels)))


def told(answers, labels=LABELS, names=NAMES, others=(), predict=None, **settings) -> list[str]:
    def same(some, transform):
        return answers[some]

    return diagnosis.of_checkpoint(answers, labels, list(names), SETTINGS | settings, list(others), TRANSFORM, predict or same)


@pytest.mark.parametrize("share", [0.3, 0.6, 1.0])
def test_of_weights_that_answer_well_enough_nothing_is_told(share):
    assert told(answered(share)) == []
    assert told(answered(share), expected_accuracy=share) == []


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [0, 1] * 3, [0] * 19 + [1], [0] * 600 + [1] * 10])
def test_of_few_images_that_are_all_right_nothing_is_told(labels):
    labels = np.array(labels)
    assert told(labels, labels, ["a", "b"]) == diagnosis.of_training(labels, labels) == []
    assert accuracy.near_chance(labels == 0, labels)  # the majority's answer for all


def test_classes_that_were_sorted_otherwise_are_recognised():
    as_text = sorted(NAMES)  # 0, 1, 10, 11, 2, …
    answers = np.array([as_text.index(NAMES[label]) for label in LABELS])  # of a network whose output 2 is the class 10
    answers = np.where(np.random.default_rng(1).random(len(answers)) < 0.95, answers, 0)
    (line,) = told(answers)
    assert line.startswith("the checkpoint answers 15.4% of 240 training images right; ")
    assert "with the classes sorted as text it would be right for 9" in line
    assert f"set `classes: [{', '.join(as_text)}]` in the dataset's source" in line


@pytest.mark.parametrize("share", [0.4, 0.9])
def test_any_other_order_is_recognised(share):
    order = np.random.default_rng(5).permutation(CLASSES)  # output k is the class order[k]
    answers = answered(share, np.argsort(order)[LABELS])
    (line,) = told(answers)
    assert "with the classes in another order it would be right for " in line
    if share == 0.9:
        assert f"set `classes: [{', '.join(NAMES[position] for position in order)}]`" in line


def test_folders_in_the_order_of_text_are_recognised_for_a_network_that_counted(share=0.3):
    names = sorted(NAMES)
    (line,) = told(answered(share, np.array([int(names[label]) for label in LABELS])), names=names)
    assert "with the classes sorted by number it would be right for " in line
    assert "set `classes: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]`" in line


def test_two_classes_that_were_exchanged_are_recognised():
    labels = np.repeat([0, 1], 50)
    (line,) = told(1 - answered(0.9, labels, 2), labels, ["cat", "dog"])
    assert "no better than always naming the largest class (50.0%); with the classes in another order" in line
    assert "`classes: [dog, cat]`" in line


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("classes", [2, 12, 60])
def test_no_order_is_read_into_answers_by_chance(seed, classes):
    labels = np.repeat(np.arange(classes), 10)
    answers = np.random.default_rng(seed).integers(0, classes, len(labels))
    (line,) = told(answers, labels, [f"c{n}" for n in range(classes)])
    assert "another order" not in line and "no better than always naming the largest class" in line


def test_the_usual_suspects_are_those_of_this_config():
    (line,) = told(answered(0.0), others=["model_ema"])
    for part in (
        "sorted as text would be [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9] (`classes:` of the source)",
        "normalisation, here {mean: [0.4, 0.4, 0.4], std: [0.2, 0.2, 0.2]} as measured on the training images",
        "input_size, here 8",
        "other weights in the same file (checkpoint_key: model_ema)",
    ):
        assert part in line
    assert "trained_on" not in line
    (line,) = told(answered(0.0), names=[f"c{n:02}" for n in range(CLASSES)], trained_on=["elsewhere"], normalisation=TRANSFORM)
    assert "sorted" not in line and "as measured" not in line and "trained_on, ['elsewhere']: it may never have seen" in line
    assert "\n" not in line


def test_folders_that_are_numbers_have_two_orders():
    assert "which sorted by number would be [0, 1, 2, 3" in accuracy.doubtful_order(sorted(NAMES))
    assert "which sorted as text would be [0, 1, 10, 11" in accuracy.doubtful_order(NAMES)
    assert accuracy.doubtful_order(["b", "a"]) == "the order of classes, here [b, a]"
    assert sorted(["c10", "c2", "c1b", "c1", "1c"], key=accuracy.natural) == ["1c", "c1", "c1b", "c2", "c10"]


def test_a_normalisation_that_would_be_right_is_named():
    def predict(some, transform):
        return LABELS[some] if transform["mean"] == [0.485, 0.456, 0.406] else answered(0.0)[some]

    (line,) = told(answered(0.0), predict=predict)
    assert "with `normalisation: {mean: [0.485, 0.456, 0.406], std: [0.229, 0.224, 0.225]}` it would be right for 100%" in line


def test_an_accuracy_far_below_the_expected_one_is_told():
    (line,) = told(answered(0.6), expected_accuracy=0.95)
    assert "training images right, and expected_accuracy says 95.0%; look at" in line
    assert told(answered(0.93), expected_accuracy=0.95) == []


def test_training_that_learnt_nothing_is_told():
    assert "after training, " in diagnosis.of_training(answered(0.0), LABELS)[0]
    assert diagnosis.of_training(answered(0.3), LABELS) == []


@given(st.integers(2, 9), st.integers(0, 2**31))
def test_an_assignment_is_a_permutation_that_no_order_beats(classes, seed):
    generator = np.random.default_rng(seed)
    answers, labels = generator.integers(0, classes, (2, 40))
    meant = accuracy.assignment(answers, labels, classes)
    assert sorted(meant) == list(range(classes))
    best = (meant[answers] == labels).sum()
    for _ in range(50):
        assert (generator.permutation(classes)[answers] == labels).sum() <= best


# What a checkpoint says of itself.


@pytest.mark.parametrize(
    "content",
    [
        {"classes": ["b", "a"]},
        {"config": {"class_names": ("b", "a")}},
        {"class_to_idx": {"b": 0, "a": 1}},
        {"hyper_parameters": {"data": {"idx_to_class": {1: "a", 0: "b"}}}},
        {"metadata": {"id2label": {"0": "b", "1": "a"}}},
    ],
)
def test_classes_in_another_order_are_refused(content):
    with pytest.raises(
        CalexError, match=r"w\.pt: its '\w+' has the classes in another order than the dataset, \[b, a\] and not \[a, b\]; set"
    ):
        metadata.check_classes(content, ["a", "b"], "w.pt")
    metadata.check_classes(content, ["b", "a"], "w.pt")
    metadata.check_classes(content, ["cat", "dog"], "w.pt")  # other words for the same


@pytest.mark.parametrize(
    "told", [{"img_size": 224}, {"args": {"input_size": [3, 224, 224]}}, {"cfg": {"resolution": (224, 224)}}]
)
def test_another_size_of_images_is_told(told):
    (line,) = metadata.check_size(told, 32)
    assert "224, and input_size is 32" in line
    assert metadata.check_size(told, 224) == metadata.check_size({"img_size": "large", "epoch": 224}, 32) == []
