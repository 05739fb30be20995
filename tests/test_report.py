"""The page shows what the table of points holds: no more, nothing filled in, and to the same bytes each time."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from synthetic_points import AUDIT, RUN, TWO, WARNINGS, operating_points, page, paired_with, text_of

from calex.__main__ import main
from calex.comparison.pareto import at_budgets
from calex.errors import CalexError
from calex.report.build import build
from calex.report.chart import picture
from calex.report.inputs import read_points
from calex.report.styles import curve_styles
from calex.report.tables import tried_settings


@pytest.fixture(scope="module")
def points() -> pl.DataFrame:
    return operating_points(TWO)


@pytest.fixture(scope="module")
def report(points):
    return build(points, RUN)


def test_settings_that_gave_the_same_points_are_one():
    points = operating_points({"a": 1.0, "b": 1.0}, variants=("x", "y"), policies=("p", "q"), seeds=(0,))
    # b's policy q is p under another name.
    swept = points.filter(~((pl.col("method") == "b") & (pl.col("policy") == "q")))
    twice = swept.filter((pl.col("method") == "b") & (pl.col("policy") == "p")).with_columns(policy=pl.lit("q"))
    assert tried_settings(pl.concat([swept, twice])) == [
        {"method": "a", "settings": 4, "variants": 2, "policies": 2, "points": 484},
        {"method": "b", "settings": 2, "variants": 2, "policies": 2, "points": 484},
    ]


# The page


def test_equal_input_gives_equal_bytes(points, report):
    again = build(points.clone(), json.loads(json.dumps(RUN)))
    assert again == report


def test_sentences_stand_apart(tiny):
    """The template drops the end of a line after a block, so a sentence that a block ends must bring its own space."""
    text = text_of((tiny / "results/pareto_digits.html").read_text(encoding="utf-8"))
    assert "Hollow diamonds" in text and "Dotted" in text
    assert re.findall(r".{20}[a-z)%][.;:][A-Z].{10}", text) == []


def test_the_page_stands_alone(report):
    head = report.html.split("<script", 1)[0]
    assert report.html.startswith("<!doctype html>")
    assert '<html lang="en">' in head
    assert "<title>Early exits on digits: accuracy against cost</title>" in head
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in head
    assert "default-src 'none'" in head

    class Addresses(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    Addresses().feed(report.html)
    assert Addresses.found == ["data:,"]
    assert "url(" not in head


def test_the_table_holds_the_test_values_of_the_validated_choice(points, report):
    read = text_of(report.html)
    at_half = at_budgets(points, [0.5]).filter((pl.col("method") == "calexnet") & (pl.col("policy") != "oracle"))
    values = 100 * at_half["test_accuracy"].to_numpy()
    spent = 100 * at_half["test_flops_fraction"].mean()
    assert len(values) == 3
    assert f"{values.mean():.1f} {values.min():.1f}–{values.max():.1f} at {spent:.1f}%" in read


def test_a_budget_that_nothing_fits_is_said_and_not_filled(points):
    dear = points.filter((pl.col("method") != "calexnet") | (pl.col("flops_fraction") > 0.45) | (pl.col("policy") == "oracle"))
    both = ["dataset", "backbone", "method", "variant", "policy", "seed", "point"]
    dear = dear.filter(pl.len().over(both) == 2)
    read = text_of(page(dear))
    row = read[read.index("calexnet", read.index("FLOPs at most")) :]
    assert row.count("no point fits", 0, row.index("reference")) == 2
    assert re.search(r"partial: 6\d% of the range", row)
    # The same two budgets have no bar.
    assert read.count("no point fits") == 4


def test_a_point_for_some_seeds_only_is_marked():
    points = operating_points(TWO)
    both = ["dataset", "backbone", "method", "variant", "policy", "seed", "point"]
    kept = (pl.col("method") != "calexnet") | (pl.col("seed") != 1) | (pl.col("flops_fraction") > 0.45)
    read = text_of(page(points.filter(kept).filter(pl.len().over(both) == 2)))
    assert "2 of 3 seeds fit" in read


def test_the_bars_are_the_mean_shares_over_seeds(points, report):
    chosen = at_budgets(points, [0.7]).filter((pl.col("method") == "reference") & (pl.col("policy") != "oracle"))
    mean = np.array(chosen["exit_share"].to_list()).mean(axis=0)
    widths = [float(width) for width in re.findall(r'<span style="width:([\d.]+)%', report.html)][4:8]
    assert widths == pytest.approx(100 * mean, abs=0.001)


def test_what_was_run_is_shown(report):
    read = text_of(report.html)
    for text in (
        "train 1,000, val 397, test 400",
        "0, 1, 2",
        "11.2 M parameters, 1.1 GFLOPs an image, branches after layer1, layer2 and layer3, trained on train",
        "calexnet 1 (1 variant × 1 policy, 121 operating points per seed); reference 1 (1 variant × 1 policy",
        "no GPU",
        "torch 2.7.1+cpu",
        RUN["fingerprints"]["dataset"],
        RUN["fingerprints"]["backbones"]["resnet18"],
        "snakemake --cores all results/pareto_digits.html",
        "temperature: 4.0",
        "Seeds vary the branches only",
        "One test image is worth 0.25 points",
    ):
        assert text in read


def test_a_run_that_says_nothing_is_tolerated(points):
    read = text_of(page(points, {}))
    assert "None" not in read and "Undefined" not in read and "Versions" not in read
    assert "val 397, test 400" in read


def test_a_backbone_that_saw_the_test_images_is_reported(points):
    run = {**RUN, "backbones": {"resnet18": {**RUN["backbones"]["resnet18"], "trained_on": ["train", "val"]}}}
    assert "It was trained on val images: what they say of it is flattered." in text_of(page(points, run))


def test_warnings_stand_before_the_chart_each_with_where_and_how_often(points):
    html = page(points, RUN | {"warnings": WARNINGS})
    read = text_of(html)
    assert "2 warnings the brightest pixel of all is 15 of 255: nearly black digits " in read
    assert "of which 2 differ resnet18, calexnet · cpm, default, seed 0 and 5 other places" in read
    assert html.index("nearly black") < html.index('class="chart"')
    none = page(points, RUN | {"warnings": []})
    assert 'id="warnings"' not in none and "0 warnings" not in none
    many = [WARNINGS[0] | {"text": f"warning {n}"} for n in range(7)]
    assert "2 more warnings warning 5" in text_of(page(points, RUN | {"warnings": many}))


def test_the_images_have_a_table_and_the_majority_is_a_reference(points):
    read = text_of(page(points, RUN | {"audit": AUDIT}))
    assert "train 1,000 200 three 50 nine 20.0% 0–255 0" in read
    assert "3 of test and 0 of val are also in train, 1 of test are also in val; 7 of train," in read
    assert "2 are in more than one class. Skipped: 4 files (not an image)." in read
    assert "Always answering “three” would score 20.0." in read
    assert " Always answering “three”: 20.0.\n" in build(points, RUN | {"audit": AUDIT}).md
    assert "The images" not in text_of(page(points))


def test_balanced_accuracy_stands_beside_the_backbones(points):
    about = RUN["backbones"]["resnet18"] | {"balanced_accuracy": {"val": 0.9, "test": 0.5}}
    read = text_of(page(points, RUN | {"backbones": {"resnet18": about}}))
    assert "The backbone alone: 97.8, balanced over classes 50.0." in read
    assert "test 97.8%; balanced over classes: val 90.0%, test 50.0%" in read


def test_a_table_without_oracles_and_backbone_is_drawn(points):
    bare = points.filter((pl.col("policy") != "oracle") & (pl.col("method") != "backbone"))
    html, svg = page(bare), picture(bare, curve_styles(bare))
    assert "Hollow diamonds" not in html and "The backbone alone" not in html
    assert "calexnet" in svg and "backbone alone" not in svg


def test_names_cannot_break_out_of_the_page():
    name = "</script><img src=x onerror=alert(1)>"
    html = page(operating_points({name: 1.0}), {**RUN, "command": "<b>&"})
    written, scripts = html.split("<script>", 1)  # the libraries' own scripts mention all kinds of tags
    for ours in (written, scripts.rsplit("<script>", 1)[1]):
        assert "<img" not in ours and "<b>&" not in ours
    spec_text = html.split('<script type="application/json" id="spec-0">')[1].split("</script>")[0]
    assert any(row.get("curve") == name for rows in json.loads(spec_text)["datasets"].values() for row in rows)


def test_several_backbones_have_a_section_each():
    points = operating_points(TWO, backbones=("resnet18", "resnet50"))
    html, svg = page(points), picture(points, curve_styles(points))
    assert html.count('class="chart"') == 2
    for backbone in ("resnet18", "resnet50"):
        assert f'<section id="{backbone}">' in html
        assert f">Early exits on digits: {backbone}</text>" in svg


def test_policies_of_one_method_get_names_of_their_own():
    html = page(operating_points({"calexnet": 1.0}, policies=("cpm_full", "cpm_survivors")))
    assert "calexnet · cpm_full" in html and "calexnet · cpm_survivors" in html


def test_the_files_beside_the_page(points, report):
    assert report.png.startswith(b"\x89PNG")
    assert report.svg.startswith("<svg") and "backbone alone 97.8%" in report.svg
    table = pl.read_csv(io.StringIO(report.csv))
    front = points.filter(pl.col("on_front") & (pl.col("split") == "test"))
    assert len(table) == len(front)
    assert table["accuracy"].sum() == pytest.approx(front["accuracy"].sum())
    val = points.filter(pl.col("on_front") & (pl.col("split") == "val"))
    assert table["val_flops_fraction"].sum() == pytest.approx(val["flops_fraction"].sum())
    shares = table.select(r"^exit_share_.*$")
    assert shares.columns == ["exit_share_branch1", "exit_share_branch2", "exit_share_branch3", "exit_share_backbone"]
    assert shares.sum_horizontal().to_numpy() == pytest.approx(1)


# The step


def step(folder, points: pl.DataFrame | bytes, run: str = json.dumps(RUN)) -> int:
    table = folder / "points.parquet"
    table.write_bytes(points) if isinstance(points, bytes) else points.write_parquet(table)
    (folder / "run.json").write_text(run)
    return main(
        ["report", "--points", str(table), "--run", str(folder / "run.json"), "--out", str(folder / "out" / "page.html")]
    )


def test_the_step_writes_five_files_and_leaves_nothing_else(tmp_path, points, report):
    assert step(tmp_path, points) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "page.csv",
        "page.html",
        "page.md",
        "page.png",
        "page.svg",
    ]
    assert (tmp_path / "out" / "page.html").read_text(encoding="utf-8") == report.html
    assert (tmp_path / "out" / "page.png").read_bytes() == report.png
    assert (tmp_path / "out" / "page.md").read_text(encoding="utf-8") == report.md


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: b"PAR1 and no more", "points.parquet: damaged (parquet: File out of specification"),
        (lambda p: p.drop("exit_share", "seed"), "has no column 'seed'"),
        (lambda p: p.with_columns(accuracy=pl.lit("high")), "column 'accuracy' is String, not Float64"),
        (lambda p: p.clear(), "this table has no rows"),
        (lambda p: pl.concat([p, p.with_columns(dataset=pl.lit("cinic10"))]), "this table has cinic10 and digits"),
        (lambda p: p.filter(pl.col("method") == "backbone"), "no operating points besides those of the backbone"),
        (lambda p: pl.concat([p, p[:1]]), "appears twice for split"),
        (lambda p: p.filter((pl.col("point") != 7) | (pl.col("split") == "test")), "it needs exactly val and test"),
        (lambda p: p.with_columns(accuracy=pl.col("accuracy") + 1), "expected an accuracy in [0, 1]"),
        (lambda p: p.with_columns(flops_fraction=pl.lit(float("nan"))), "at flops_fraction nan"),
    ],
)
def test_a_bad_table_is_one_line_and_nothing_is_written(tmp_path, capsys, points, spoil, message):
    assert step(tmp_path, spoil(points)) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "points.parquet" in error and message in error
    assert not (tmp_path / "out").exists()


def test_a_table_of_other_differences_is_one_line(tmp_path, capsys, points):
    paired = paired_with(("reference", "cpm_survivors"), points)
    points.write_parquet(tmp_path / "points.parquet")
    (tmp_path / "run.json").write_text("{}")
    for spoilt, message in (
        (paired.drop("low"), "has no column 'low'"),
        (paired.with_columns(dataset=pl.lit("cinic10")), "is about cinic10, not digits"),
    ):
        spoilt.write_parquet(tmp_path / "paired.parquet")
        files = [("points", "points.parquet"), ("run", "run.json"), ("paired", "paired.parquet"), ("out", "page.html")]
        assert main(["report", *(part for name, file in files for part in (f"--{name}", str(tmp_path / file)))]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "paired.parquet" in error and message in error
        assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected a JSON object"),
        ('{"audit": []}', "'audit' is not an object"),
        ('{"warnings": {}}', "'warnings' is not a list"),
    ],
)
def test_a_bad_description_is_one_line(tmp_path, capsys, points, run, message):
    assert step(tmp_path, points, run) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "run.json" in error and message in error


def test_a_page_must_be_called_a_page(tmp_path, capsys):
    assert main(["report", "--points", "p", "--run", "r", "--out", str(tmp_path / "page.pdf")]) == 2
    assert "name it .html" in capsys.readouterr().err


def test_a_missing_table_is_one_line(tmp_path, capsys):
    with pytest.raises((CalexError, OSError)):
        read_points(tmp_path / "none.parquet")
    (tmp_path / "run.json").write_text("{}")
    none, out = tmp_path / "none.parquet", tmp_path / "page.html"
    assert main(["report", "--points", str(none), "--run", str(tmp_path / "run.json"), "--out", str(out)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_page_says_how_pictures_are_classified() -> None:
    command = "snakemake --cores all results/pareto_digits.html --configfile mine.yaml"
    text = text_of(page(operating_points({"a": 1.0}), {**RUN, "command": command}))
    assert "snakemake --cores all results/digits/resnet18/cascade --configfile mine.yaml" in text
    assert "python -m calex predict results/digits/resnet18/cascade PICTURES" in text
