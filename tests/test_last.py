"""What answers where no branch does: the backbone, or the backbone and the last branch together."""

from __future__ import annotations

import argparse
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up_exits import any_exits, log_softmax, random_exits, write

from calex.errors import CalexError
from calex.policies import stopping
from calex.simulation import cascade
from calex.simulation.evaluation import measure
from calex.simulation.exits import Exits, read
from calex.simulation.exits_file import half
from calex.simulation.last import combined
from calex.steps import calibrate, evaluate
from calex.system.files import write_npz


def written(folder: Path, splits: dict[str, Exits]) -> list[Path]:
    """Files of a backbone that is never sure: where the last branch is, the product answers as that."""
    paths = write(folder, {split: [each] for split, each in splits.items()})
    unsure = {
        f"{split}_backbone_log_softmax": half(log_softmax(each.backbone, np.full(len(each.labels), 0.1), each.classes))[None]
        for split, each in splits.items()
    }
    write_npz(paths[0], dict(np.load(paths[0])) | unsure)
    return paths


KEY = {"dataset": "d", "backbone": "b", "method": "m", "variant": "default", "policy": "p", "seed": 1}


def test_a_product_by_hand() -> None:
    """(0.6, 0.4) · (0.2, 0.8) = (0.12, 0.32), of which the shares are 3/11 and 8/11."""
    log_p = combined(np.log([[0.6, 0.4]]), np.log([[0.2, 0.8]]))
    np.testing.assert_allclose(np.exp(log_p), [[3 / 11, 8 / 11]], rtol=2e-3)  # rounded to float16
    assert log_p.dtype == np.float32


@given(arrays.arrays(np.float64, (2, 5, 4), elements=st.floats(-40, 40)))
def test_a_product_by_plain_loops(logits: np.ndarray) -> None:
    log_p = logits - np.log(np.exp(logits).sum(2, keepdims=True))
    found = combined(*log_p)
    np.testing.assert_allclose(np.exp(found).sum(1), 1, rtol=1e-5)
    for backbone, branch, each in zip(*log_p.astype(np.float16).astype(float), found, strict=True):
        product = [math.exp(a + b - max(backbone + branch)) for a, b in zip(backbone, branch, strict=True)]
        np.testing.assert_allclose(np.exp(each), [value / sum(product) for value in product], atol=1e-4)


def test_a_class_that_both_exclude_is_excluded() -> None:
    never = np.array([[0.0, -np.inf, -np.inf]])
    assert np.isfinite(combined(never, never)).all() and combined(never, never).argmax(1) == [0]


def test_it_is_read_from_the_files_of_the_first_and_the_last_branch(tmp_path) -> None:
    test = random_exits(3, images=200)
    paths = written(tmp_path, {"test": test})
    plain, both = (read(paths, "test", "confidence", last=last) for last in ("backbone", "combined"))
    assert plain.last is None and np.array_equal(plain.answers[-1], test.backbone)
    first, last = (np.load(path) for path in (paths[0], paths[-1]))
    expected = [
        np.argmax(a.astype(np.float32) + b.astype(np.float32))
        for a, b in zip(first["test_backbone_log_softmax"][0], last["test_log_softmax"][0], strict=True)
    ]
    assert np.array_equal(both.answers[-1], expected) and (both.last != test.backbone).any()
    assert np.array_equal(both.backbone, test.backbone), "what one compares with stays the backbone"
    some = both.of(np.arange(200) % 3 == 0)
    assert np.array_equal(some.answers, both.answers[:, ::3])
    # What a cascade answers, and what that is worth.
    taken = np.array([np.arange(200) % 4, np.full(200, 3)], np.uint8)
    assert np.array_equal(cascade.predict(both, taken)[0], both.answers[taken[0], np.arange(200)])
    rows = measure(both, taken)
    assert rows["accuracy"][1] == np.mean(np.array(expected) == test.labels)
    assert rows["agreement"][1] == np.mean(np.array(expected) == test.backbone) < 1


def test_what_it_cannot_be_is_refused(tmp_path) -> None:
    paths = write(tmp_path, {"test": [random_exits(3, images=20)]})
    with pytest.raises(CalexError, match="last: unknown name 'combine', did you mean 'combined'"):
        read(paths, "test", "confidence", last="combine")
    content = dict(np.load(paths[0]))
    del content["test_backbone_log_softmax"]
    write_npz(paths[0], content)
    with pytest.raises(
        CalexError, match=re.escape("exits1.npz: holds no whole log-softmax of test images; rerun train-branch")
    ):
        read(paths, "test", "confidence", last="combined")


@given(any_exits(images=(1, 12)), st.data())
def test_stopping_counts_what_is_answered_at_the_end(made, data) -> None:
    last = data.draw(arrays.arrays(np.int64, len(made.labels), elements=st.integers(0, made.classes - 1)))
    earned = stopping.rewards(replace(made, last=last), 0.0, "label")
    assert np.array_equal(earned[-1], last == made.labels)
    assert np.array_equal(earned[:-1], made.predictions == made.labels)


def test_the_steps_calibrate_and_evaluate_it(tmp_path) -> None:
    """Without a word the backbone answers last; what is kept and measured is what is answered at the end."""
    val, test = random_exits(0, images=150), random_exits(1, images=130)
    paths = written(tmp_path, {"val": val, "test": test})
    found = {}
    for last in ("backbone", "combined", None):
        chosen = {"policy": {"name": "stopping", "steps": 6}, "score": "confidence", "correct": "label", "folds": 5}
        chosen |= {} if last is None else {"last": last}
        thresholds, out = tmp_path / f"{last}.thresholds.parquet", tmp_path / f"{last}.points.parquet"
        calibrate.run(argparse.Namespace(exits=paths, settings=chosen, out=thresholds))
        evaluate.run(argparse.Namespace(exits=paths, thresholds=thresholds, settings=chosen, key=KEY, out=out))
        kept = np.load(tmp_path / f"{last}.exits.npz")
        exits = read(paths, "test", "confidence", last=last or "backbone")
        assert np.array_equal(kept["last"], exits.answers[-1])
        found[last] = pl.read_parquet(out)
        rows = measure(exits, kept["exit"])
        assert found[last].filter(split="test").select(rows.columns).equals(rows)
    assert found[None].equals(found["backbone"]), "the backbone, unless something is said"
    assert not found["combined"].equals(found["backbone"])
