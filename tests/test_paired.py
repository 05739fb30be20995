"""Paired differences: by hand, as Agresti and Min's formula, covered as often as promised; and the step that takes them."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from conftest import run_calex
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from made_up_exits import random_exits, write

from calex.comparison import paired, pareto
from calex.comparison.paired import difference
from calex.simulation.evaluation import measure
from calex.simulation.points import SCHEMA
from calex.steps import compare
from calex.system.files import write_npz


def test_a_difference_by_hand():
    # Ten images, one seed. Theirs alone is right on 3, ours alone on 1: the mean is 0.2. With half an image more in each
    # cell: 12 images, a sum of 2 and a sum of squares of 5, so ⅙ ± 1.96·√((5/12 − 1/36)/12) = 0.16667 ± 0.35283.
    theirs = np.array([[1, 1, 1, 0, 1, 1, 1, 0, 0, 0]], bool)
    ours = np.array([[0, 0, 0, 1, 1, 1, 1, 0, 0, 0]], bool)
    found = difference(theirs, ours)
    assert found.mean == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((1 / 6 - 0.35283, 1 / 6 + 0.35283), abs=1e-5)


def test_seeds_are_averaged_before_images_are_sampled():
    # Two seeds that contradict each other on an image say nothing of it; three copies of a seed are no more than one.
    assert difference(np.array([[1, 0], [0, 0]], bool), np.array([[0, 0], [1, 0]], bool)).mean == 0
    draw = np.random.default_rng(0)
    theirs, ours = draw.random((2, 1, 50)) < 0.7
    assert difference(np.repeat(theirs, 3, axis=0), np.repeat(ours, 3, axis=0)) == pytest.approx(difference(theirs, ours))


def test_no_disagreement_is_no_certainty():
    same = np.ones((1, 100), bool)
    found = difference(same, same)
    assert found.mean == 0
    # Of 100 images none differs: the rule of three bounds the share that might by about 3 %.
    assert found.high == -found.low and 0.01 < found.high < 0.03


answers = st.tuples(st.integers(1, 3), st.integers(1, 25)).flatmap(lambda shape: arrays.arrays(np.bool_, (2, *shape)))


@given(answers)
def test_the_interval_holds_the_mean_and_turns_with_the_sides(two):
    found, turned = difference(*two), difference(*two[::-1])
    assert -1 <= found.low <= found.mean <= found.high <= 1
    assert (found.mean, found.low, found.high) == pytest.approx((-turned.mean, -turned.high, -turned.low))


@given(arrays.arrays(np.bool_, st.tuples(st.just(2), st.just(1), st.integers(1, 25))))
def test_of_one_seed_it_is_agresti_and_min(two):
    n = two.shape[2]
    b, c = int((two[0] & ~two[1]).sum()) + 0.5, int((two[1] & ~two[0]).sum()) + 0.5
    centre = (b - c) / (n + 2)
    spread = 1.959964 * math.sqrt((b + c) - (b - c) ** 2 / (n + 2)) / (n + 2)
    found = difference(*two)
    assert (found.low, found.high) == pytest.approx((max(-1, centre - spread), min(1, centre + spread)), abs=1e-6)


@pytest.mark.parametrize(
    ("images", "disagree", "shift"), [(60, 0.06, 0.0), (60, 0.3, 0.1), (400, 0.02, 0.01), (1000, 0.1, -0.03)]
)
def test_it_covers_the_true_difference_as_often_as_it_says(images, disagree, shift):
    """Images drawn from a world in which three seeds disagree on some share of them; the truth is that world's mean."""
    draw = np.random.default_rng(images)
    hits, wald, rounds = 0, 0, 1500
    for _ in range(rounds):
        # A disputed image favours one side with each seed in turn, for most seeds the same side.
        disputed = draw.random(images) < disagree
        side = draw.random(images) < 0.5 + shift / disagree / 2
        steady = draw.random((3, images)) < 0.9
        theirs = np.where(disputed, side == steady, True)
        ours = np.where(disputed, side != steady, True)
        truth = shift * 0.8  # 0.9 of the seeds with the side, 0.1 against
        found = difference(theirs, ours)
        hits += found.low <= truth <= found.high
        d = theirs.mean(axis=0) - ours.mean(axis=0)
        wald += abs(d.mean() - truth) <= 1.96 * d.std() / math.sqrt(images)
    assert 0.935 <= hits / rounds <= 0.995
    if disagree * images < 5:
        assert wald < hits, "the plain interval falls short where few images differ"


def test_shapes_that_do_not_pair_are_refused():
    for theirs, ours in (((1, 3), (1, 4)), ((3,), (3,)), ((1, 0), (1, 0))):
        with pytest.raises(ValueError, match="shape"):
            difference(np.ones(theirs, bool), np.ones(ours, bool))


# The step

OURS = {"method": "ours", "policy": "p"}


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """Two methods, one of them with two policies, two seeds, three branches: exits, exits taken, the table of points."""
    rows = []
    labels = random_exits(0, images=80).labels
    for m, (method, policies) in enumerate({"ours": ["p"], "rival": ["p", "q"]}.items()):
        for seed in (0, 1):
            folder = tmp_path / "d" / "b" / method / "default" / f"seed{seed}"
            folder.mkdir(parents=True)
            cascade = random_exits(10 * m + seed, images=80)
            cascade.labels[:] = labels
            cascade.backbone[:] = np.where(np.arange(80) % 9, labels, 0)
            write(folder, {"val": [cascade], "test": [cascade]})
            for policy in policies:
                # Everyone at branch 1; at branch 2; a mixture; the backbone. `q` of one seed has only the dear ones.
                taken = np.stack([np.full(80, 0), np.full(80, 1), np.arange(80) % 4, np.full(80, 3)]).astype(np.uint8)
                if policy == "q" and seed == 1:
                    taken = taken[3:]
                last = np.where(np.arange(80) % 7, cascade.backbone, labels)
                cascade = replace(cascade, last=last)
                write_npz(folder / f"{policy}.exits.npz", {"exit": taken, "last": last.astype(np.uint8)})
                key = {"dataset": "d", "backbone": "b", "method": method, "variant": "default", "policy": policy, "seed": seed}
                for split in ("val", "test"):
                    rows.append(
                        measure(cascade, taken).with_columns(
                            *(pl.lit(value, SCHEMA[name]).alias(name) for name, value in key.items()),
                            parameters=pl.lit("{}"),
                            split=pl.lit(split),
                        )
                    )
    pareto.mark_fronts(pl.concat([each.select(*SCHEMA) for each in rows])).write_parquet(tmp_path / "points.parquet")
    return tmp_path


def compared(folder: Path, *ours: dict[str, str]) -> pl.DataFrame:
    out, settings = folder / "out" / "paired.parquet", {"ours": list(ours or [OURS])}
    compare.run(argparse.Namespace(results=folder, points=folder / "points.parquet", settings=settings, out=out))
    return pl.read_parquet(out)


def test_the_step_equals_plain_loops(evaluated):
    found = compared(evaluated)
    assert dict(found.schema) == paired.SCHEMA
    assert found.select("method", "policy", "budget").rows() == [
        ("rival", policy, budget) for policy in ("p", "q") for budget in pareto.BUDGETS
    ]
    points = pl.read_parquet(evaluated / "points.parquet")

    def right(method: str, policy: str, seed: int, budget: float) -> list[bool] | None:
        fitting = points.filter(
            (pl.col("method") == method) & (pl.col("policy") == policy) & (pl.col("seed") == seed) & (pl.col("split") == "val")
            & (pl.col("flops_fraction") <= budget)
        )  # fmt: skip
        if not len(fitting):
            return None
        point = min(fitting.iter_rows(named=True), key=lambda r: (-r["accuracy"], r["flops_fraction"]))["point"]
        folder = evaluated / "d" / "b" / method / "default" / f"seed{seed}"
        taken = np.load(folder / f"{policy}.exits.npz")["exit"][point]
        branches = [np.load(folder / f"exits{k}.npz") for k in (1, 2, 3)]
        last = np.load(folder / f"{policy}.exits.npz")["last"]
        message = [branches[k]["test_prediction"][0][i] if k < 3 else last[i] for i, k in enumerate(taken)]
        return [message[i] == branches[0]["test_label"][i] for i in range(80)]

    filled = 0
    for row in found.iter_rows(named=True):
        ours = [right("ours", "p", seed, row["budget"]) for seed in (0, 1)]
        theirs = [right(row["method"], row["policy"], seed, row["budget"]) for seed in (0, 1)]
        assert (row["n"], row["of"]) == (80, 2)
        assert row["seeds"] == sum(a is not None and b is not None for a, b in zip(ours, theirs, strict=True))
        if row["seeds"] < 2:
            assert row["difference"] is row["low"] is row["high"] is row["accuracy"] is None
            continue
        filled += 1
        assert (row["difference"], row["low"], row["high"]) == pytest.approx(difference(np.array(theirs), np.array(ours)))
        assert row["accuracy"] - row["ours_accuracy"] == pytest.approx(row["difference"])
    assert filled == 5, "the curve q lacks a point for one seed at every budget"


def test_the_order_of_the_table_does_not_matter(evaluated):
    before = compared(evaluated)
    table = pl.read_parquet(evaluated / "points.parquet")
    table.sample(fraction=1, shuffle=True, seed=3).write_parquet(evaluated / "points.parquet")
    assert compared(evaluated).equals(before)


def test_several_curves_of_ours_are_compared_with_all_others_and_with_one_another(evaluated):
    rival = {"method": "rival", "policy": "p"}
    both = compared(evaluated, OURS, rival)
    assert both.filter(pl.col("ours") == 0).equals(compared(evaluated, OURS))
    second = both.filter(pl.col("ours") == 1)
    assert second.drop("ours").equals(compared(evaluated, rival).drop("ours"))
    there = both.filter((pl.col("ours") == 0) & (pl.col("method") == "rival") & (pl.col("policy") == "p"))
    back = second.filter(pl.col("method") == "ours")
    assert there["difference"].to_list() == pytest.approx([-value for value in back["difference"]])
    assert there["low"].to_list() == pytest.approx([-value for value in back["high"]])


def refused(folder: Path, message: str, ours: dict[str, str] = OURS) -> None:
    out = folder / "paired.parquet"
    done = run_calex(
        "compare", "--results", folder, "--points", folder / "points.parquet", "--settings", json.dumps({"ours": [ours]}),
        "--out", out,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and message in done.stderr, done.stderr
    assert not out.exists()


def test_files_that_do_not_belong_together_are_refused(evaluated):
    refused(evaluated, "no points of ours · q with b", {"method": "ours", "policy": "q"})
    folder = evaluated / "d" / "b" / "rival" / "default" / "seed0"
    taken, last = (np.load(folder / "p.exits.npz")[name] for name in ("exit", "last"))
    write_npz(folder / "p.exits.npz", {"exit": taken[::-1].copy(), "last": last})
    refused(evaluated, "not as accurate as the table of points says; rerun evaluate")
    write_npz(folder / "p.exits.npz", {"exit": taken})
    refused(evaluated, "p.exits.npz: holds no 'last'")
    write_npz(folder / "p.exits.npz", {"exit": taken, "last": last[:70]})
    refused(evaluated, "rerun evaluate")
    write_npz(folder / "p.exits.npz", {"exit": taken[:, :70], "last": last})
    refused(evaluated, "p.exits.npz: exits of 70 images where 80 are known")
    branch = dict(np.load(folder / "exits2.npz"))
    write_npz(folder / "exits2.npz", branch | {"test_label": branch["test_label"][::-1]})
    refused(evaluated, "exits2.npz: made from other images than")
