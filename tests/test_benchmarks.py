"""Benchmarks at tiny sizes through the real code; the page, the table and the quote that show them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY

from calex import benchmarks, plugins
from calex.__main__ import main
from calex.benchmarks import Row, busy, memory, row, training
from calex.benchmarks._stores import made
from calex.features.store import verify
from calex.report import benchmarks_page
from calex.steps import sizes
from calex.system import precision

LINUX = pytest.mark.skipif(not memory.STATUS.exists(), reason="memory is read from Linux's /proc")


def measured(folder: Path, name: str, *more: str) -> dict:
    out = folder / f"{name}.json"
    arguments = ["benchmark", name, "--repeats", "1", "--folder", str(folder / "stores"), "--device", "cpu", "--out", str(out)]
    assert main([*arguments, *more]) == 0
    assert list((folder / "stores").iterdir()) == []
    return json.loads(out.read_text())


def test_a_row_is_a_median_with_its_range_and_keeps_its_limit_or_not():
    times = np.array([2.0, 9.0, 4.0]), np.array([1.0, 1.0, 1.0])
    slow = row("a / b", *times, 4.0, True, "")
    assert (slow.ratio, slow.low, slow.high, slow.met) == (4.0, 2.0, 9.0, True)
    assert row("a / b", *times, 3.9, True, "").met is False
    assert row("a / b", *times, 4.1, False, "").met is False
    assert row("a / b", *times, None, True, "").met is None


def test_made_up_stores_are_whole(tmp_path):
    made(tmp_path, 1100)
    assert verify(tmp_path, "train") == []


def test_training_at_a_tiny_size(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CASES", (("imagenet", 8192, 10.0, 0.15),))
    result = measured(tmp_path, "training", "--scale", "0.001")
    by_flops = [found for found in result["rows"] if "what FLOPs allow" in found["name"]]
    assert [found["limit"] for found in by_flops] == [0.15] * 3 and len(result["rows"]) == 9
    # A branch of at most 1 % of the FLOPs trains for at most 3 %: 1.03 / 0.03 = 34.3 times at least are allowed.
    assert all(float(re.search(r"of ([\d.]+) times", found["detail"])[1]) > 34 for found in by_flops)


def test_reading_at_a_tiny_size(tmp_path, capsys):
    result = measured(tmp_path, "reading", "--scale", "0.01")
    names = [found["name"] for found in result["rows"]]
    assert [name for name in names if "numpy.load" in name] == names[:2]
    assert [found["limit"] for found in result["rows"]] == [0.7, None, 1.25, 1.25]
    assert all(0 < found["low"] <= found["ratio"] <= found["high"] for found in result["rows"])
    assert "655 images, 8.45 MB" in result["rows"][0]["detail"]
    assert capsys.readouterr().err.count("numpy.load: ") == 2


def test_busy_at_a_tiny_size(tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "SECONDS", 0.0)
    monkeypatch.setattr(precision, "ROUNDS", 1)
    monkeypatch.setattr(busy, "STEM", "imagenet")  # the smallest first stage
    monkeypatch.setitem(busy.SETTINGS, "batch_size", 8)
    monkeypatch.setattr(busy, "BATCH", 8)
    result = measured(tmp_path, "busy", "--scale", "0.01")
    computes = precision.candidates(torch.device("cpu"))
    expected = [
        name
        for work in ("training", "dumping")
        for name in (
            *(f"{work}, one core busy / idle, {compute}" for compute in computes),
            *(f"{work}, auto / better precision, {state}" for state in ("idle", "one core busy")),
        )
    ]
    assert [found["name"] for found in result["rows"]] == expected
    for found in result["rows"]:
        assert found["limit"] == (0.9 if "auto" in found["name"] else 0.35) and found["ratio"] > 0
        assert all(compute in found["detail"] for compute in computes) or "auto" not in found["name"]


def test_a_busy_core_is_busy_and_free_again():
    with pytest.raises(ZeroDivisionError), busy.busy_core() as process:
        assert process.poll() is None
        1 / 0  # noqa: B018
    assert process.poll() is not None


@LINUX
def test_memory_is_that_of_a_process_of_its_own(tmp_path):
    ballast = np.ones(600 << 20, np.uint8)
    first, grown = measured(tmp_path, "memory", "--scale", "0.001")["rows"]
    assert ballast[-1] == 1
    assert 0.05 < first["ratio"] < 0.6  # Python and torch, and not this process's ballast
    assert 0.5 < grown["ratio"] < 2


GREEDY = """
import sys, time
from pathlib import Path
import numpy as np
from calex.benchmarks import memory

folder = Path(sys.argv[1])
plain = memory.peak(folder, 1, "cpu")
epoch = memory.Thinned.epoch

def greedy(self, number):
    held = np.ones(300 << 20, np.uint8)
    time.sleep(1)
    del held
    return epoch(self, number)

memory.Thinned.epoch = greedy
print(memory.peak(folder, 1, "cpu") - plain)
"""


@LINUX
def test_the_peak_sees_memory_that_was_given_back(tmp_path):
    """Faults injected: an epoch that for a moment holds 300 MB more. In a process of its own, as the benchmark has it:
    this one may hold memory from before that it would use again."""
    made(tmp_path, 600)
    done = subprocess.run([sys.executable, "-c", GREEDY, str(tmp_path)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 250e6


def test_where_memory_cannot_be_read_the_question_is_skipped(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "STATUS", tmp_path / "none")
    result = measured(tmp_path, "memory")
    assert result["rows"] == [] and "Linux" in result["skipped"]
    assert "benchmark memory: skipped" in capsys.readouterr().err
    assert "skipped | | | | anonymous memory" in benchmarks_page.markdown([result], "command")
    assert "Skipped: anonymous memory" in benchmarks_page.page([result], "command")


def test_a_disk_without_room_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(benchmarks.shutil, "disk_usage", lambda path: usage._replace(free=10))
    arguments = ["benchmark", "reading", "--folder", str(tmp_path), "--device", "cpu", "--out", str(tmp_path / "x.json")]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "need 1.08 GB and the disk has 1e-05 MB; name another --folder" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("more", [["--repeats", "0"], ["--scale", "0"], ["--scale", "nan"]])
def test_nothing_cannot_be_measured(tmp_path, capsys, more):
    assert main(["benchmark", "dump", "--out", str(tmp_path / "x.json"), *more]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# What shows them

MADE_UP = {
    "repeats": 5, "scale": 1.0, "threads": 2, "device": "a CPU", "processor": "a CPU", "versions": {"torch": "2.7"},
}  # fmt: skip


def result(benchmark: str, *rows: Row, **more: object) -> dict:
    return MADE_UP | {"benchmark": benchmark, "rows": [vars(r) | {"met": r.met} for r in rows]} | more


KEPT = Row("dump / <b>bare</b>", 1.05, 1.01, 1.2, 1.15, True, "100 images/s")
MISSED = Row("streamed / resident", 1.4, 1.3, 1.5, 1.25, True, "7 images/s")
FASTER = Row("recomputed / cached", 41.2, 39.0, 43.0, 40.0, False, "8 images/s")
FREE = Row("without a limit", 250.0, 240.0, 260.0, None, False, "9 images/s")


def test_a_missed_limit_is_reported_as_missed():
    results = [result("dump", KEPT), result("reading", MISSED)]
    assert benchmarks_page.verdict(results) == "1 of 2 limits met. Missed: streamed / resident."
    text, html = benchmarks_page.markdown(results, "command"), benchmarks_page.page(results, "command")
    assert "| streamed / resident | 1.4 | 1.3 – 1.5 | ≤ 1.25 | **missed** | 7 images/s |" in text
    assert '<td class="missed">missed</td>' in html and html.count(">met</td>") == 1
    assert "1 of 2 limits met. Missed: streamed / resident." in html


def test_all_limits_met_is_said():
    assert benchmarks_page.verdict([result("training", FASTER, FREE)]) == "All of 1 limit met."
    assert "| without a limit | 250 | 240 – 260 |  |  | 9 images/s |" in benchmarks_page.markdown(
        [result("training", FASTER, FREE)], "c"
    )


def test_the_chart_is_about_limits():
    drawn = json.loads(
        re.search(r'id="spec-0">(.*?)</script>', benchmarks_page.page([result("dump", KEPT, MISSED, FASTER, FREE)], "c"))[1]
    )
    rows = {r["name"]: r for rows in drawn["datasets"].values() for r in rows if "name" in r}
    assert set(rows) == {KEPT.name, MISSED.name, FASTER.name}
    assert rows[KEPT.name]["best"] == pytest.approx(1.15 / 1.05)
    assert (rows[KEPT.name]["low"], rows[KEPT.name]["high"]) == pytest.approx((1.15 / 1.2, 1.15 / 1.01))
    assert rows[MISSED.name]["best"] < 1 and rows[MISSED.name]["met"] == "missed"
    assert rows[FASTER.name]["best"] == pytest.approx(41.2 / 40)


def test_the_page_stands_alone():
    html = benchmarks_page.page([result("dump", KEPT)], "snakemake <x>")
    head = html.split("<script", 1)[0]
    assert html.startswith("<!doctype html>") and '<html lang="en">' in head
    assert "<title>calex: how fast</title>" in head and "default-src 'none'" in head and "prefers-color-scheme: dark" in head
    assert "<b>bare" not in head and "snakemake &lt;x&gt;" in html

    class Addresses(HTMLParser):
        found: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attributes):
            self.found += [value for name, value in attributes if name in ("src", "href", "srcset", "action", "data")]

    Addresses().feed(html)
    assert Addresses.found == ["data:,"]
    assert html == benchmarks_page.page([result("dump", KEPT)], "snakemake <x>")


def test_a_short_run_is_no_evidence():
    assert "A short run (dump at less than the usual size)" in benchmarks_page.markdown([result("dump", KEPT, scale=0.1)], "c")
    assert benchmarks_page.caveats([result("dump", KEPT)]) == []


def test_machines_that_differ_are_told_apart():
    results = [result("dump", KEPT, device="a GPU"), result("memory", KEPT), result("reading", KEPT)]
    gpu, cpu = benchmarks_page.machines(results)
    assert gpu.startswith("dump: a CPU, a GPU; torch 2.7;") and cpu.startswith("memory and reading: a CPU; torch 2.7;")


def test_the_step_puts_questions_in_order_and_refuses_what_is_no_result(tmp_path, capsys):
    for name in ("reading", "dump"):
        (tmp_path / f"{name}.json").write_text(json.dumps(result(name, KEPT)))
    files = [str(tmp_path / f"{name}.json") for name in ("reading", "dump")]
    assert main(["report-benchmarks", "--results", *files, "--out", str(tmp_path / "page.html")]) == 0
    assert [found["benchmark"] for found in benchmarks_page.read([Path(file) for file in files])] == ["dump", "reading"]
    assert (tmp_path / "page.md").read_text().count("| dump / ") == 2
    (tmp_path / "dump.json").write_text('{"rows": [{}]}')
    assert main(["report-benchmarks", "--results", *files, "--out", str(tmp_path / "other.html")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "dump.json: not a result of" in error
    assert not (tmp_path / "other.html").exists()


def test_every_question_has_a_title():
    assert set(benchmarks_page.TITLES) == set(plugins.names("benchmarks"))


# Sizes on paper


def test_sizes_worked_by_hand(tmp_path):
    stems = (("cifar", 32), ("imagenet", 224))
    rates = {(network, stem, px): 100.0 for network in ("resnet18", "resnet50") for stem, px in stems}
    table = sizes.table(rates, "a CPU")
    row = next(line for line in table.splitlines() if "CINIC-10" in line and "resnet18" in line and "8×8" in line)
    # (64 + 128 + 256) channels of 8×8 float16, ten float32, two int64: 57,400 bytes; 270,000 images at 100 a second.
    assert "| 270,000 |" in row and "| 57 kB | 15.5 GB | 45 min |" in row
    whole = next(line for line in table.splitlines() if "ImageNet" in line and "resnet50" in line and "whole" in line)
    # 256×56² + 512×28² + 1024×14² in float16, a thousand float32: 2,813,7.. bytes.
    assert "| 2,814 kB | 3.75 TB | 3.7 h |" in whole
    assert table.count("| ImageNet") == table.count("| CIFAR-100") == 4 and "on a CPU in float32" in table


def test_sizes_need_the_dump_benchmark(tmp_path, capsys):
    (tmp_path / "dump.json").write_text(json.dumps(result("dump", KEPT)))
    assert main(["sizes", "--benchmark", str(tmp_path / "dump.json"), "--out", str(tmp_path / "sizes.md")]) == 2
    assert "holds no rates" in capsys.readouterr().err
    assert not (tmp_path / "sizes.md").exists()


@pytest.mark.parametrize(
    ("seconds", "message"), [(40, "40 s"), (119, "119 s"), (150, "2.5 min"), (7199, "120 min"), (36_000, "10 h")]
)
def test_durations(seconds, message):
    assert sizes.duration(seconds) == message


# Quoting

MARKED = "# A\n\n<!-- begin t.md -->\nold\n<!-- end t.md -->\n\n<!-- begin other.md -->\nkept\n<!-- end other.md -->\n"


def quoting(folder: Path, page: str, text: str = "| a |\n|---|\n") -> int:
    (folder / "README.md").write_text(page)
    (folder / "t.md").write_text(text)
    return main(["quote", str(folder / "t.md"), "--into", str(folder / "README.md")])


def test_a_quote_replaces_what_stood_between_its_marks_and_nothing_else(tmp_path):
    assert quoting(tmp_path, MARKED) == 0
    once = (tmp_path / "README.md").read_text()
    assert once == MARKED.replace("\nold\n", "\n\n| a |\n|---|\n\n")
    assert main(["quote", str(tmp_path / "t.md"), "--into", str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text() == once
    assert sorted(path.name for path in tmp_path.iterdir()) == ["README.md", "t.md"]


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("no marks", "found 0 and 0"),
        (MARKED + MARKED, "found 2 and 2"),
        ("<!-- begin t.md -->\n", "found 1 and 0"),
        ("<!-- end t.md -->\n<!-- begin t.md -->\n", "in the wrong order"),
    ],
)
def test_marks_that_are_missing_or_double_are_one_line_and_change_nothing(tmp_path, capsys, page, message):
    assert quoting(tmp_path, page) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "README.md: needs one line `<!-- begin t.md -->`" in error and message in error
    assert (tmp_path / "README.md").read_text() == page


def test_a_quote_that_is_not_text_is_refused(tmp_path, capsys):
    (tmp_path / "t.md").write_bytes(b"\xff\xfe")
    (tmp_path / "README.md").write_text(MARKED)
    assert main(["quote", str(tmp_path / "t.md"), "--into", str(tmp_path / "README.md")]) == 2
    assert "not text in UTF-8" in capsys.readouterr().err


WIDE = "Words.\n\n| | 70% | 50% |\n|---|---|---|\n| a \\| b | 1 | 2 |\n\n| second |\n|---|\n"


def test_a_quote_may_take_some_columns_of_the_first_table(tmp_path):
    (tmp_path / "README.md").write_text(MARKED)
    (tmp_path / "t.md").write_text(WIDE)
    assert main(["quote", str(tmp_path / "t.md"), "--columns", "50%", "--into", str(tmp_path / "README.md")]) == 0
    table = "| | 50% |\n|---|---|\n| a \\| b | 2 |"
    assert (tmp_path / "README.md").read_text() == MARKED.replace("\nold\n", f"\n\n{table}\n\n")


@pytest.mark.parametrize(("text", "fault"), [(WIDE, "no column 30%; known: 70%, 50%"), ("Words.\n", "holds no table")])
def test_columns_that_are_not_there_are_one_line_and_change_nothing(tmp_path, capsys, text, fault):
    (tmp_path / "README.md").write_text(MARKED)
    (tmp_path / "t.md").write_text(text)
    assert main(["quote", str(tmp_path / "t.md"), "--columns", "50%", "30%", "--into", str(tmp_path / "README.md")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and fault in error and (tmp_path / "README.md").read_text() == MARKED
