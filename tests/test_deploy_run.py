"""From a finished run to a folder that answers: what the cascade says is what the run computed, image by image."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import documented
import numpy as np
import pytest
from conftest import REPOSITORY, copied_run, planned, run_snakemake
from exported import compare, curves
from PIL import Image

import calex
from calex.__main__ import main
from calex.comparison import pareto
from calex.simulation.points import MARKED
from calex.system.files import read_json, read_parquet


def test_a_cascade_answers_every_test_image_as_it_was_evaluated(tiny: Path) -> None:
    for chosen, made, pixels, taken, answered, said in curves(tiny / "results", "digits"):
        assert compare(made, pixels, taken, answered, said) <= 0.001 * 3 * len(pixels), chosen
        single = [made.classify(pixels[n : n + 1]) for n in range(40)]
        batch = made.classify(pixels)
        assert [int(one.exit) for one in single] == batch.exit[:40].tolist()
        assert [int(one.prediction) for one in single] == batch.prediction[:40].tolist()


@pytest.fixture(scope="module")
def run(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tiny run that a test may add to."""
    return copied_run(tiny, tmp_path_factory.mktemp("export"))


def test_the_workflow_exports_what_is_best_on_validation(run: Path) -> None:
    """A loop over all points, by the default wish: at most 0.01 less accurate than the network, as cheap as can be."""
    points = read_parquet(run / "results/points_digits.parquet", MARKED)
    network = points.filter(method="backbone", split="val")["accuracy"].item()
    val = pareto.deployable(points).filter(split="val").sort(pareto.POINT)
    good = [row for row in val.iter_rows(named=True) if row["accuracy"] >= network - 0.01 - 1e-9]
    best = min(good, key=lambda row: (row["flops_fraction"], -row["accuracy"]))
    cascade = calex.load(run / "results/digits/resnet18/cascade")
    made = cascade.about["made"]
    assert {name: made[name] for name in ("method", "variant", "policy", "seed")} == {
        name: best[name] for name in ("method", "variant", "policy", "seed")
    }
    assert cascade.point == best["point"]
    curves = {name: values[cascade.point] for name, values in cascade.sweep.curves.items()}
    test = points.filter(split="test", **{name: best[name] for name in pareto.POINT}).row(0, named=True)
    assert curves["val_accuracy"] == best["accuracy"] and curves["test_flops_fraction"] == test["flops_fraction"]
    assert made["images"] == {"val": best["n"], "test": test["n"]}


def test_its_test_accuracy_and_cost_are_those_of_the_report(run: Path) -> None:
    data = calex_images(run)
    cascade = calex.load(run / "results/digits/resnet18/cascade")
    answers = cascade.classify(data[0])
    assert float((answers.prediction.numpy() == data[1]).mean()) == pytest.approx(
        cascade.sweep.curves["test_accuracy"][cascade.point]
    )
    cost = cascade.costs.by_exit()[answers.exit.numpy()].mean() / cascade.costs.backbone
    assert cost == pytest.approx(cascade.sweep.curves["test_flops_fraction"][cascade.point])


def calex_images(run: Path) -> tuple[np.ndarray, np.ndarray]:
    from calex import images

    data = images.load(run / "results/digits/images.npz")
    test = data.indices("test")
    return data.images[test], data.labels[test]


def test_files_of_pictures_are_answered_as_the_images_were(run: Path, tmp_path: Path) -> None:
    pixels, _ = calex_images(run)
    for number, image in enumerate(pixels[:20]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{number:02}.png")
    words = [sys.executable, "-m", "calex", "predict", "results/digits/resnet18/cascade", str(tmp_path)]
    done = subprocess.run(words, cwd=run, capture_output=True, text=True, check=False, env={"PYTHONPATH": str(REPOSITORY)})
    assert done.returncode == 0, done.stderr
    expected = calex.load(run / "results/digits/resnet18/cascade").classify(pixels[:20])
    rows = list(csv.DictReader(done.stdout.splitlines()))
    assert [int(row["prediction"]) for row in rows] == expected.prediction.tolist()
    assert [int(row["exit"]) for row in rows] == (expected.exit + 1).tolist()


def test_the_lines_of_python_on_the_page_run(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(run)
    (run / "photos").mkdir()
    Image.new("L", (8, 8), 200).save(run / "photos" / "one.png")
    page = (REPOSITORY / "config/deploying.md").read_text(encoding="utf-8")
    (block,) = (block.text for block in documented.blocks(page) if "cheaper = cascade.at" in block.text)
    exec(compile(block, "deploying.md", "exec"), names := {})
    assert capsys.readouterr().out.split()[0] in names["cascade"].classes
    assert names["cheaper"].sweep.curves["val_flops_fraction"][names["cheaper"].point] <= 0.9


def test_another_wish_exports_again_and_compares_nothing_again(run: Path, tmp_path: Path) -> None:
    wish = tmp_path / "wish.yaml"
    wish.write_text("datasets: { digits: { deploy: { max_flops: 0.9 } } }")
    tiny = REPOSITORY / "tests" / "tiny.yaml"
    plan = run_snakemake(run, "results/digits/resnet18/cascade", "results/pareto_digits.html", "--dry-run", config=[tiny, wish])
    assert planned(plan.stdout) == {"export": 1}, plan.stdout + plan.stderr


def test_a_report_that_shows_wall_times_measures_them(run: Path, tmp_path: Path) -> None:
    timed = tmp_path / "timed.yaml"
    timed.write_text("datasets: { digits: { latency: true } }")
    plan = run_snakemake(run, "results/pareto_digits.html", "--dry-run", config=[REPOSITORY / "tests/tiny.yaml", timed])
    assert planned(plan.stdout) == {"latency": 1, "report": 1}, plan.stdout + plan.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--max-flops", "0.01"], "no operating point has max_flops 0.01; the cheapest costs"),
        (["--method", "ztw", "--max-drop", "0"], "nothing was evaluated that could be exported"),
        (["--max-drop", "0", "--backbone", "resnet50"], "no operating points of 'resnet50'"),
        ([], "give one"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    words: list[str], reason: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = [
        "--results",
        str(tiny / "results"),
        "--dataset",
        "digits",
        "--backbone",
        "resnet18",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["export", *common, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line and not (tmp_path / "out").exists()


def test_one_method_can_be_exported_by_hand(tiny: Path, tmp_path: Path) -> None:
    common = [
        "--results",
        str(tiny / "results"),
        "--dataset",
        "digits",
        "--backbone",
        "resnet18",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["export", *common, "--method", "reference", "--max-flops", "2"]) == 0
    assert read_json(tmp_path / "out" / "cascade.json")["made"]["method"] == "reference"
