"""The comparison of heads: who wins within a cost, who is level with it, and what the page says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from calex.__main__ import main
from calex.simulation import exits_file
from calex.simulation.exits_file import BranchPredictions
from calex.system.files import write_npz

IMAGES, CLASSES, BACKBONE = 400, 4, 1000.0
# Of each method: its head's share of the backbone's FLOPs, and the share of images that it answers right.
METHODS = {"cheap": (0.002, 0.50), "good": (0.008, 0.90), "equal": (0.009, 0.90), "dear": (0.04, 0.95)}


def write_exits(path: Path, cost: float, accuracy: float, seed: int) -> None:
    draw = np.random.default_rng(seed)
    splits = ("train", "val", "test")
    labels = {split: np.arange(IMAGES) % CLASSES for split in splits}
    predictions = {}
    for split in splits:
        right = draw.permutation(IMAGES) < round(accuracy * IMAGES)
        answered = np.where(right, labels[split], (labels[split] + 1) % CLASSES)
        logits = np.full((IMAGES, CLASSES), -3.0, np.float32)
        logits[np.arange(IMAGES), answered] = 0
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        predictions[split] = [exits_file.kept(BranchPredictions(log_p.astype(np.float32), None), whole=False)]
    backbone = {split: views[0].prediction[None] for split, views in predictions.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    flops = (0.25 * BACKBONE, cost * BACKBONE, None, BACKBONE)
    write_npz(path, exits_file.content(predictions, labels, backbone, *flops, {}))


@pytest.fixture
def study(tmp_path: Path) -> tuple[Path, str]:
    for method, (cost, accuracy) in METHODS.items():
        for seed in (0, 1):
            write_exits(tmp_path / f"d/b/{method}/default/seed{seed}/exits1.npz", cost, accuracy, seed)
    variant = {"default": {"recipe": {}, "head": {}, "target": {}, "weighting": {}}}
    config = {
        "seeds": [0, 1],
        "datasets": {"d": {"backbones": ["b"], "methods": list(METHODS)}},
        "backbones": {"b": {"taps": ["x"]}},
        "methods": {method: {"policies": [], "variants": variant} for method in METHODS},
    }
    return tmp_path, json.dumps({"name": "d", "config": config})


def test_the_best_head_within_each_cost(study: tuple[Path, str]) -> None:
    results, settings = study
    out = results / "heads_d.html"
    assert main(["heads", "--results", str(results), "--settings", settings, "--command", "again", "--out", str(out)]) == 0
    table = pl.read_csv(out.with_suffix(".csv"))
    assert set(table["method"]) == set(METHODS) and table["seeds"].to_list() == [2] * 4
    for method, cost, accuracy in table.select("method", "cost", "test_accuracy").iter_rows():
        assert (cost, accuracy) == pytest.approx(METHODS[method], abs=1e-6)
    markdown = out.with_suffix(".md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| branch 1"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # 0.25, 0.5, 1, 2 and 5 %: of two that are equally good the cheaper one wins, and the other is level with it.
    assert cells[1:3] == ["cheap: 50.0 at 0.20 %"] * 2
    assert cells[3:5] == ["good: 90.0 at 0.80 %; level: equal"] * 2
    assert cells[5] == "dear: 95.0 at 4.00 %"
    assert "after 25 % of the backbone" in cells[0] and "again" in markdown
    assert [line for line in markdown.splitlines() if line.startswith("| dear") or line.startswith("| cheap")] == [
        "| cheap | 50.0 (50.0) at 0.20 % |",
        "| dear | 95.0 (95.0) at 4.00 % |",
    ]
    page = out.read_text()
    assert "not trained yet" not in page and "heads on d" in page.lower() and out.with_suffix(".png").stat().st_size > 1000


def test_a_study_that_runs_can_be_looked_at(study: tuple[Path, str], capsys: pytest.CaptureFixture[str]) -> None:
    results, settings = study
    (results / "d/b/dear/default/seed1/exits1.npz").unlink()
    arguments = ["heads", "--results", str(results), "--settings", settings, "--out", str(results / "heads_d.html")]
    assert main(arguments) == 2
    assert "dear/default/seed1/exits1.npz" in capsys.readouterr().err and not (results / "heads_d.html").exists()
    assert main([*arguments, "--available"]) == 0
    assert "1 of 8 branches are not trained yet" in (results / "heads_d.md").read_text()
