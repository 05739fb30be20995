"""Selections of branches: against plain loops over one selection, and as a command."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from made_up_exits import random_exits, write

from calex import plugins
from calex.__main__ import main
from calex.comparison.subsets import best_of_each_size, read, selected, selections
from calex.simulation.cascade import predict
from calex.simulation.evaluation import measure
from calex.simulation.rule import calibrated

SEEDS = [(random_exits(seed, images=300), random_exits(seed + 10, images=200)) for seed in (0, 1)]
SEEDS[1][1].labels[:] = SEEDS[0][1].labels


def test_a_selection_is_a_cascade_of_its_own() -> None:
    some = selected(SEEDS[0][0], (0, 2))
    assert (
        some.costs.to_tap == (10.0, 60.0) and some.costs.head == (1.0, 4.0) and len(some.predictions) == len(some.scores) == 2
    )
    assert np.array_equal(some.predictions[1], SEEDS[0][0].predictions[2])
    assert some.costs.by_exit().tolist() == [11.0, 65.0, 105.0]  # branch 2 costs nothing where it is not
    assert list(selections(3)) == [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2)]


def test_what_is_read_within_a_budget_by_plain_loops() -> None:
    budgets = [0.7, 0.3, 0.05]
    found = read(SEEDS, (0, 1), budgets)
    policy = plugins.load("policies", "budgeted")
    options = plugins.options_of(plugins.complete("policies", {"name": "budgeted"}, "policy"))
    for b, budget in enumerate(budgets):
        accuracies = []
        for s, (val, test) in enumerate((selected(val, (0, 1)), selected(test, (0, 1))) for val, test in SEEDS):
            rule = calibrated(policy, val, policy.parameters(**options), "label", options)
            best = None
            for row in measure(val, rule.leave(val)).iter_rows(named=True):
                fits = row["flops_fraction"] <= budget
                if fits and (
                    best is None or (row["accuracy"], -row["flops_fraction"]) > (best["accuracy"], -best["flops_fraction"])
                ):
                    best = row
            if best is not None:
                accuracies.append(best["accuracy"])
                taken = rule.at(np.array([best["point"]])).leave(test)
                assert np.array_equal(found.right[s, b], (predict(test, taken) == test.labels)[0])
        assert (
            np.isnan(found.val_accuracy[b]) if not accuracies else found.val_accuracy[b] == pytest.approx(np.mean(accuracies))
        )


def test_the_best_of_each_size_is_the_best_on_validation_images() -> None:
    budgets = [0.6, 0.2]
    found = best_of_each_size(SEEDS, budgets)
    assert list(found) == [1, 2, 3]
    for size, row in found.items():
        for place, best in enumerate(row):
            others = {some: read(SEEDS, some, budgets).val_accuracy[place] for some in selections(3) if len(some) == size}
            assert best is not None and others[best.branches] == np.nanmax(list(others.values()))
    assert found[3][0] is not None and found[3][0].difference.mean == 0
    assert best_of_each_size(SEEDS, [0.05])[1] == [None]


def test_the_command_prints_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, (val, test) in enumerate(SEEDS):
        write(tmp_path / f"seed{seed}", {"val": [val], "test": [test]})
    assert (
        main(["subsets", str(tmp_path / "seed0"), str(tmp_path / "seed1"), "--score", "confidence", "--budgets", "0.6", "0.05"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Branches after (1) 10%, (2) 30%, (3) 60% of the FLOPs."
    assert lines[2] == "| branches | 60% | 5% |" and len(lines) == 7 and lines[-1].endswith("| no point fits |")
    (tmp_path / "seed1" / "exits3.npz").unlink()
    assert main(["subsets", str(tmp_path / "seed0"), str(tmp_path / "seed1")]) == 2
    assert "seed1: 2 files exits*.npz, expected 2 to 10, and as many for each seed" in capsys.readouterr().err
