"""What a config file says is what is read: nothing twice, nothing that YAML takes for something else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conftest import run_snakemake

from calex.config import read_layers, read_yaml
from calex.errors import CalexError


@pytest.fixture
def refusal(tmp_path: Path) -> Any:
    def refused(text: str, name: str = "c.yaml") -> str:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CalexError) as error:
            read_yaml(path)
        assert "\n" not in str(error.value)
        return str(error.value).replace(str(path), name)

    return refused


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [0]\na: 1\nseeds: [1]\n", "c.yaml: the key 'seeds' is given twice, lines 1 and 3; keep one"),
        ("a:\n  b:\n  - c: 1\n    d: 2\n    c: 3\n", "c.yaml: a.b.0: the key 'c' is given twice, lines 3 and 5; keep one"),
        ("a: {b: 1, 'b': 2}\n", "c.yaml: a: the key 'b' is given twice, lines 1 and 1"),
        ("a: 1\na: 2\na: 3\n", "the key 'a' is given 3 times, lines 1, 2 and 3"),
        # Where it stands under an anchor it is one fault, however often the anchor is used.
        ("x: &x\n  a: 1\n  a: 2\ny: *x\n", "x: the key 'a' is given twice, lines 2 and 3"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  b: 2\n", "y: the key 'b' is given twice, lines 4 and 5"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  <<: *x\n", "y: the key '<<' is given twice, lines 3 and 4"),
        ("datasets:\n  on: 1\n", "c.yaml: line 2: the key on is read by YAML as true or false; write it in quotes: 'on'"),
        ("no: 1\n", "the key no is read by YAML as true or false; write it in quotes: 'no'"),
        ("a: {1: 2}\n", "the key 1 is read by YAML as a number; write it in quotes: '1'"),
        ("? [a, b]\n: 1\n", "line 1: a list or a block in place of a key"),
        ("a: &a\n  b: *a\n", "a.b: an alias inside what it stands for"),
        ("a:\n\tb: 1\n", "c.yaml: not valid YAML: line 2, column 1: a tab; indent with spaces"),
        ("a: [1,\nb: {", "c.yaml: not valid YAML: line 2"),
        ("a: 1\nb: 'x\n", "line 3, column 1: found unexpected end of stream (what begins in line 2)"),
        ("a: *b\n", "line 1, column 4: found undefined alias"),
        ("a: !!python/name:os.system\n", "c.yaml: not valid YAML: line 1"),
        ("- a\n", "c.yaml: holds no keys"),
        ("", "c.yaml: holds no keys"),
    ],
)  # fmt: skip
def test_what_is_refused_and_where(refusal: Any, text: str, said: str) -> None:
    assert said in refusal(text)


def test_all_of_it_is_told_at_once(refusal: Any) -> None:
    said = refusal("a: {b: 1, b: 2}\nc:\n  d: 1\n  d: 2\nyes: 1\n")
    assert said.count("is given twice") == 2 and "the key yes" in said


def test_several_files_are_read_before_any_is_refused(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.yaml").write_text("a: 1\na: 2\n")
    with pytest.raises(CalexError, match=r"one\.yaml: .*; .*two\.yaml: "):
        read_layers([tmp_path / "one.yaml", tmp_path / "two.yaml"])


def test_what_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: [*x, *x]\n'on': {'1': 2}\n")
    both = {"a": 1, "b": 2}
    assert read_yaml(path) == {"x": both, "y": {"a": 1, "b": 3}, "z": [both, both], "on": {"1": 2}}


def test_a_json_file_may_be_indented_with_tabs_and_repeats_no_key(refusal: Any, tmp_path: Path) -> None:
    (tmp_path / "good.json").write_text('{\n\t"a": {"b": 1e-3}\n}\n')
    assert read_yaml(tmp_path / "good.json") == {"a": {"b": 0.001}}
    assert "the key 'a' is given twice, lines 2 and 3" in refusal('{\n\t"a": 1,\n\t"a": 2\n}\n', "c.json")


def test_the_workflow_reads_every_file_so(tmp_path: Path) -> None:
    (tmp_path / "over.yaml").write_text("device: cpu\nmethods:\n  calexnet:\n    score: margin\n    score: entropy\n")
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("device: cpu\ndevice: auto\n")
    done = run_snakemake(tmp_path, "results/pareto_digits.html", "-n", config=tmp_path / "over.yaml")
    assert done.returncode != 0
    (line,) = [line for line in done.stderr.splitlines() if "calex: error" in line]
    assert "config/config.yaml: the key 'device' is given twice, lines 1 and 2" in line
    assert "over.yaml: methods.calexnet: the key 'score' is given twice, lines 4 and 5" in line
