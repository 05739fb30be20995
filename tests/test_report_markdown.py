"""The report's Markdown: plain tables of accuracy, differences and counts, and one sentence for each of ours."""

from __future__ import annotations

import re

import polars as pl
import pytest
from synthetic_points import RUN, TWO, operating_points, paired_with, text_of

from calex.report.build import build
from calex.report.formatting import interval


@pytest.fixture(scope="module")
def points() -> pl.DataFrame:
    return operating_points(TWO)


def written(row: dict) -> str:
    return interval(row["difference"], row["low"], row["high"], row["n"])


def test_accuracy_and_difference_are_tables_of_their_own(points):
    paired = paired_with(("reference", "cpm_survivors"), points)
    made = build(points, RUN, paired)
    assert build(points, RUN, paired.sample(fraction=1, shuffle=True, seed=1)) == made
    read, lines = text_of(made.html), made.md.splitlines()
    for row in paired.iter_rows(named=True):
        assert written(row) in read and written(row) in made.md
    assert "this curve less reference" in read and "reference beside the others" in read
    assert "<br>" not in made.md
    # Ours is first, in the page and in the file, and has no difference to itself.
    assert read.index("reference ours 9") < read.index("calexnet 9")
    assert lines[2] == "| | 70% | 60% | 50% | 40% | 30% | area, 30–70% saved |"
    assert [line.split(" | ")[0] for line in lines[4:6]] == ["| reference", "| calexnet"]
    assert lines[7] == "Difference to reference on the same test images, in percentage points [95% interval]."
    assert lines[9] == "| | 70% | 60% | 50% | 40% | 30% |"
    assert lines[11].startswith("| calexnet | ") and lines[12] == ""
    rows = [line for line in lines if line.startswith("|")]
    assert {row.count("|") for row in rows[:4]} == {8} and {row.count("|") for row in rows[4:7]} == {7}


def test_the_claims_are_counts_and_one_sentence(points):
    paired = paired_with(("reference", "cpm_survivors"), points)
    at = pl.col("budget")
    paired = paired.with_columns(
        low=pl.when(at == 0.7).then(0.001).when(at == 0.3).then(-0.02).otherwise(-0.01),
        high=pl.when(at == 0.3).then(-0.001).otherwise(0.02),
    )
    lines = build(points, {}, paired).md.splitlines()
    i = lines.index("**reference** beside each rival: at how many budgets it is ahead, undecided or behind.")
    assert lines[i + 2 : i + 5] == [
        "| rival | ahead | undecided | behind |",
        "|---|---|---|---|",
        "| calexnet | 1 (30%) | 3 (60%, 50%, 40%) | 1 (70%) |",
    ]
    assert lines[i + 6].startswith(
        "Ahead in 1 of 5 comparisons, undecided in 3, behind in 1 (95% intervals over 400 test images, not corrected for their "
        "number: without any difference 0.25 would exclude 0 by chance); mean gain over the rivals −"
    )
    assert re.search(
        r"; between \d\d% and 70% of the FLOPs the order of the curves is not the same for every seed \(first: ", lines[i + 6]
    )
    assert lines[i + 6].endswith(" seeds).") and len(lines) == i + 7


def test_it_gives_on_what_and_with_what(points):
    assert build(points, RUN).md.splitlines()[-3:] == [
        "",
        "1,000 train, 397 val and 400 test images; seeds 0, 1 and 2; Intel(R) Xeon(R) Processor @ 2.60GHz, 2 cores; "
        "calex 0.1.0, numpy 2.3.1, polars 1.31.0, python 3.11.2, torch 2.7.1+cpu.",
        "Made by `snakemake --cores all results/pareto_digits.html`.",
    ]
    assert build(points, {}).md.endswith("|\n"), "what is not known is not written"


def test_the_counts_are_for_each_of_ours_and_the_differences_to_the_first(points):
    first, second = paired_with(("reference", "cpm_survivors"), points), paired_with(("calexnet", "cpm_survivors"), points)
    both = pl.concat([second.with_columns(ours=pl.lit(1, pl.Int64)), first])
    made, alone = build(points, {}, both), build(points, {}, first)
    assert made.svg == alone.svg and made.md.startswith(alone.md)
    read = text_of(made.html)
    assert read.index("reference beside the others") < read.index("calexnet beside the others")
    assert made.md.removeprefix(alone.md).startswith("\n**calexnet** beside each rival")


def test_ours_are_not_rivals_of_one_another():
    points = operating_points({"a": 1.0, "b": 1.0, "rival": 0.9}, policies=("p", "q"))
    both = pl.concat([paired_with((name, "p"), points).with_columns(ours=pl.lit(n, pl.Int64)) for n, name in enumerate("ab")])
    read = text_of(build(points, {}, both).html)
    assert read.count("Compared with 2 other curves, none of them ours, at 5 budgets") == 2
    assert read.count("Mean gain in test accuracy over the 2 other curves") == 2
    assert "a · p ours" in read and "b · p ours" in read and "a · q ours" not in read
    # Nobody else: then they are.
    alone = points.filter(pl.col("method") != "rival")
    read = text_of(build(alone, {}, both.filter(pl.col("method") != "rival")).html)
    assert "Compared with 3 other curves, at 5 budgets" in read


def test_where_no_value_is_there_none_is_filled_in(points):
    paired = paired_with(("reference", "cpm_survivors"), points)
    gone = pl.when(pl.col("budget") != 0.4)
    paired = paired.with_columns(gone.then(pl.col(name)).alias(name) for name in ("difference", "low", "high"))
    made = build(points, RUN, paired)
    assert text_of(made.html).count("not compared") == 1
    row = next(line for line in made.md.split("Difference to")[1].splitlines() if line.startswith("| calexnet"))
    assert row.split(" | ")[4] == "" and row.count("[") == 4
    assert "| rival | ahead | undecided | behind | missing |" in made.md and "1 (40%) |" in made.md


def test_a_name_with_a_bar_stays_in_its_cell():
    assert "| a\\|b | " in build(operating_points({"a|b": 1.0}), {}).md
