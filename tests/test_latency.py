"""What is timed: the right work, at the right operating point, with numbers that fit together."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_cascades import CLASSES, NEEDS_ONNX, ONNX, made

from calex.__main__ import main
from calex.benchmarks import Bench
from calex.benchmarks import latency as benchmark
from calex.deploy import latency
from calex.simulation.cost import Costs


def test_shares_of_exits_are_as_asked() -> None:
    cascade, inputs = made("ztw", "entropy", np.full((1, 3, CLASSES), np.inf)), torch.randn(100, 3, 7, 7)
    timed = latency.with_shares(cascade, inputs, np.array([0.4, 0.0, 0.35, 0.25]))
    counts = np.bincount(timed(inputs).exit, minlength=4)
    assert np.abs(counts - [40, 0, 35, 25]).max() <= 3, "equal scores leave together"
    assert cascade(inputs).exit.unique().tolist() == [3]
    everyone = latency.with_shares(cascade, inputs, np.array([1.0, 0, 0, 0]))
    assert everyone(inputs).exit.unique().tolist() == [0]


@given(st.floats(0.31, 1.29))
def test_shares_cost_what_is_asked(target: float) -> None:
    costs = Costs((0.2, 0.5, 0.8), (0.1, 0.1, 0.1), 1.0)
    shares = latency.shares_for(costs, target)
    assert shares.sum() == pytest.approx(1) and (shares >= 0).all()
    assert float(shares @ costs.by_exit()) == pytest.approx(target, abs=1e-6)


def test_a_measurement_fits_together() -> None:
    cascade, inputs = made("branchwise", "margin", np.full((1, 3, CLASSES), np.inf)), torch.randn(24, 3, 7, 7)
    cheap, dear = (latency.with_shares(cascade, inputs, np.array(shares)) for shares in ([1.0, 0, 0, 0], [0, 0, 0, 1.0]))
    one, other = latency.measure([cheap, dear], inputs, 8, rounds=3, seconds=0.0)
    assert one.batch == other.batch == 8 and one.images == 24 and one.network == other.network
    assert one.low <= one.speed_up <= one.high
    assert (one.predicted, other.predicted) == (pytest.approx(4 / 1.1), pytest.approx(4 / 4.3))
    for each in (one, other):
        assert sum(each.shares.values()) == pytest.approx(1) and set(each.shares) == {"stages", "branches", "routing"}
        assert min(each.shares["stages"], each.shares["branches"]) > 0 and each.joules == {}
    assert "exit" not in vars(cascade.branches), "the meter is taken off again"


def test_a_cascade_is_timed_on_test_images_and_without(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cascade, data = str(tiny / "results/digits/resnet18/cascade"), str(tiny / "results/digits/images.npz")
    brief = [
        "--images",
        "20",
        "--batch-sizes",
        "1",
        "10",
        "--rounds",
        "1",
        "--seconds",
        "0",
        "--threads",
        "1",
        "--device",
        "cpu",
    ]
    out = tmp_path / "latency.json"
    assert main(["latency", cascade, "--dataset", data, *brief, "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    assert [row["batch"] for row in rows] == [1, 10] and all(row["predicted"] > 0 for row in rows)
    # Its place on the report.
    words = ["report", "--points", str(tiny / "results/points_digits.parquet"), "--run", str(tiny / "results/digits/run.json")]
    assert main([*words, "--latency", str(out), "--out", str(tmp_path / "page.html")]) == 0
    assert "Wall time" in (tmp_path / "page.html").read_text(encoding="utf-8")
    text = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert (
        "| images at a time | network | cascade | speed-up | by FLOPs |" in text
        and f"| 10 | {1000 * rows[1]['network']:.3g} ms |" in text
    )
    assert main(["latency", cascade, *brief, "--max-flops", "2"]) == 0
    printed = capsys.readouterr()
    assert printed.out.count(" ms ") == 8 and "medians an image of 20 images" in printed.err


def test_the_benchmark_at_a_tiny_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "NETWORKS", {("resnet18", "cifar", 32, 10): {1: 2, 32: 8}})
    out = tmp_path / "latency.json"
    assert main(["benchmark", "latency", "--repeats", "1", "--scale", "0.01", "--device", "cpu", "--out", str(out)]) == 0
    rows = json.loads(out.read_text())["rows"]
    beside = [row for row in rows if row["name"].startswith("torch / onnxruntime")]
    promised = [row for row in rows if row not in beside]
    assert [(row["limit"], row["at_most"]) for row in promised] == [(0.75, False)] * 3 + [(0.9, False)] * 3
    assert [row["name"].split(", ")[2] for row in promised] == [f"{point} of the cost" for point in benchmark.POINTS] * 2
    assert all(0 < row["low"] <= row["ratio"] <= row["high"] for row in rows)
    assert [row["limit"] for row in beside] == [None] * 2 * ONNX


@NEEDS_ONNX
def test_onnxruntime_times_the_same_cascade() -> None:
    cascade, inputs = benchmark.random_cascade("resnet18", "cifar", 32, 10), benchmark.made_up(24, 32)
    runtime = benchmark.by_onnxruntime(cascade, Bench(Path(), 1, 1, torch.device("cpu")))
    assert runtime is not None
    timed = latency.with_shares(cascade, inputs, np.array([0.25, 0.25, 0.25, 0.25]))
    runtime.sweep = timed.sweep
    ours, theirs = timed(inputs), runtime(inputs.numpy())
    assert (ours.exit.numpy() == theirs.exit).mean() > 0.9 and len(set(theirs.exit)) == 4
