"""`compute: auto` decides by measurement, and what was decided stays."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from calex.system import precision
from calex.system.files import read_json

CPU = torch.device("cpu")


class Machine:
    """A clock that work moves on: so many seconds for each precision, in the order of the calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **costs: list[float]) -> None:
        self.now, self.costs, self.calls = 0.0, costs, list[str]()
        monkeypatch.setattr(precision.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(precision, "candidates", lambda device: list(costs))

    def work(self, compute: str) -> None:
        times = self.costs[compute]
        self.now += times[min(self.calls.count(compute), len(times) - 1)]
        self.calls.append(compute)


def test_candidates_take_turns_for_a_second_each(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, float32=[0.5, 0.25], bfloat16=[0.5, 0.125])
    assert precision.measure(machine.work, ["float32", "bfloat16"]) == {"float32": 0.25, "bfloat16": 0.125}
    assert machine.calls == ["float32", "bfloat16"] * 7  # one round uncounted, then six of 0.375 s
    machine = Machine(monkeypatch, float32=[20.0], bfloat16=[10.0])
    assert precision.measure(machine.work, ["float32", "bfloat16"])["bfloat16"] == 10
    assert machine.calls == ["float32", "bfloat16"] * (1 + precision.ROUNDS)


def test_a_hiccup_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, float32=[0.5, 0.5, 0.5, 0.5], bfloat16=[0.5, 0.25, 9.0, 0.25, 0.25])
    times = precision.measure(machine.work, ["float32", "bfloat16"])
    assert precision.fastest(times) == "bfloat16"


def test_a_hopeless_candidate_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, float32=[1.0], bfloat16=[40.0], float16=[0.5])
    times = precision.measure(machine.work, ["float32", "bfloat16", "float16"])
    assert machine.calls.count("bfloat16") == 1
    assert times == {"float32": 1.0, "bfloat16": 40.0, "float16": 0.5}


def test_a_precision_that_the_network_cannot_compute_in_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    machine = Machine(monkeypatch, float32=[1.0], bfloat16=[0.1])

    def work(compute: str) -> None:
        machine.work(compute)
        factor = torch.ones(2, 2, dtype=precision.DTYPES[compute])
        factor @ torch.ones(2, 2)  # types that do not go together, as in many a network

    assert precision.measure(work, ["float32", "bfloat16"]) == {"float32": 1.0}
    assert "the network cannot compute in bfloat16 (" in capsys.readouterr().err
    with pytest.raises(RuntimeError):
        precision.measure(lambda compute: torch.ones(2) @ torch.ones(3), ["float32", "bfloat16"])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ({"float32": 1.0}, "float32"),
        ({"float32": 1.0, "bfloat16": 1.0}, "float32"),
        ({"float32": 1.0, "bfloat16": 0.97}, "float32"),  # not worth less precision
        ({"float32": 1.0, "bfloat16": 0.9}, "bfloat16"),
        ({"float32": 1.0, "bfloat16": 0.7, "float16": 0.6}, "float16"),
        ({"float32": 1.0, "bfloat16": 40.0}, "float32"),
    ],
)
def test_the_fastest_is_taken(times: dict[str, float], expected: str) -> None:
    assert precision.fastest(times) == expected


def test_a_choice_is_recorded_and_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def choose(compute: str, machine: Machine, batch: int = 128) -> str:
        return precision.choose(compute, CPU, machine.work, "a batch", tmp_path / "precision.json", {"batch": batch}, "label")

    machine = Machine(monkeypatch, float32=[0.5], bfloat16=[0.25])
    assert choose("float32", machine) == "float32" and choose("bfloat16", machine) == "bfloat16"
    assert machine.calls == [] and list(tmp_path.iterdir()) == []
    assert choose("auto", machine) == "bfloat16"
    assert "label: float32 0.5 s, bfloat16 0.25 s for a batch; in bfloat16" in capsys.readouterr().err
    assert read_json(tmp_path / "precision.json") == {
        "compute": "bfloat16", "seconds": {"float32": 0.5, "bfloat16": 0.25}, "unit": "a batch", "identity": {"batch": 128},
    }  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["precision.json"]

    slower = Machine(monkeypatch, float32=[0.5], bfloat16=[2.5])  # the same machine, busy
    assert choose("auto", slower) == "bfloat16" and slower.calls == []
    assert "in bfloat16, as" in capsys.readouterr().err
    assert choose("auto", slower, batch=64) == "float32" and slower.calls  # something else is asked
    assert read_json(tmp_path / "precision.json", "identity")["identity"] == {"batch": 64}


def test_this_device_computes_what_is_offered() -> None:
    assert precision.candidates(CPU)[0] == "float32"
    assert precision.candidates(torch.device("mps")) == ["float32"]
    layer = torch.nn.Conv2d(3, 8, 3).requires_grad_(False)

    def work(compute: str) -> None:
        with precision.autocast(CPU, compute):
            output = layer(torch.randn(4, 3, 8, 8))
        assert output.dtype == precision.DTYPES[compute]

    times = precision.measure(work, precision.candidates(CPU))
    assert all(taken > 0 for taken in times.values())
