"""Exit scores: golden values, ranges, and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calex.simulation.scores import SCORES, scores


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=1, keepdims=True)
    return (shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))).astype(np.float32)


def of(*probabilities: float) -> dict[str, float]:
    found = scores(np.log(np.array([probabilities], np.float64)), np.array([0.25], np.float32))
    return {name: float(value[0]) for name, value in found.items()}


def test_scores_by_hand():
    # H = ½ log 2 + 2·¼ log 4 = 1.5 log 2, and log C = 2 log 2.
    assert of(0.5, 0.25, 0.25, 1e-300) == {
        "confidence": 0.25,
        "max_softmax": 0.5,
        "margin": 0.25,
        "entropy": pytest.approx(1 - 1.5 / 2, abs=1e-7),
    }


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_a_uniform_answer_is_the_least_ready(classes):
    found = scores(log_softmax(np.zeros((1, classes))), np.zeros(1, np.float32))
    assert found["entropy"][0] == pytest.approx(0, abs=1e-6)
    assert found["max_softmax"][0] == pytest.approx(1 / classes, rel=1e-6)
    assert found["margin"][0] == 0


def test_a_certain_answer_is_the_readiest():
    for logits in ([[0.0, 800.0, 0.0]], [[0.0, 50.0, -50.0]]):
        found = scores(log_softmax(np.array(logits)), np.ones(1, np.float32))
        assert all(found[name][0] == 1 for name in SCORES)


def test_a_probability_of_exactly_zero_has_no_surprise():
    with np.errstate(divide="ignore", invalid="ignore"):
        found = scores(np.array([[0.0, -np.inf, -np.inf]], np.float32), np.ones(1, np.float32))
    assert all(found[name][0] == 1 for name in SCORES)


rows = st.integers(2, 6).flatmap(
    lambda classes: st.lists(st.lists(st.floats(-30, 30, width=32), min_size=classes, max_size=classes), min_size=1, max_size=8)
)


@given(rows)
def test_scores_equal_plain_loops(logits):
    classes = len(logits[0])
    confidence = np.linspace(0, 1, len(logits), dtype=np.float32)
    found = scores(log_softmax(np.array(logits)), confidence)
    assert tuple(found) == SCORES
    for i, row in enumerate(logits):
        total = sum(math.exp(z - max(row)) for z in row)
        p = sorted((math.exp(z - max(row)) / total for z in row), reverse=True)
        surprise = -sum(q * math.log(q) for q in p if q > 0)
        assert found["confidence"][i] == confidence[i]
        assert found["max_softmax"][i] == pytest.approx(p[0], abs=1e-5)
        assert found["margin"][i] == pytest.approx(p[0] - p[1], abs=1e-5)
        assert found["entropy"][i] == pytest.approx(1 - surprise / math.log(classes), abs=1e-5)


@given(rows)
def test_scores_are_float32_in_zero_to_one(logits):
    for values in scores(log_softmax(np.array(logits)), np.full(len(logits), 0.5, np.float32)).values():
        assert values.dtype == np.float32 and values.shape == (len(logits),)
        assert ((values >= 0) & (values <= 1)).all()


@given(rows, st.randoms())
def test_classes_have_no_order(logits, shuffler):
    order = list(range(len(logits[0])))
    shuffler.shuffle(order)
    log_probabilities, confidence = log_softmax(np.array(logits)), np.zeros(len(logits), np.float32)
    plain, shuffled = scores(log_probabilities, confidence), scores(log_probabilities[:, order], confidence)
    for name in SCORES:
        np.testing.assert_allclose(plain[name], shuffled[name], atol=1e-6)
