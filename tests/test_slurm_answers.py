"""What a cluster's own commands say, read."""

from __future__ import annotations

import pytest

from calex.workflow import slurm


@pytest.mark.parametrize(
    ("gres", "expected"),
    [
        ("gpu:a100:4\n(null)\n", True),
        ("(null)\n", False),
        ("", False),
        ("fast:1,gpu:2(S:0-1)\n", True),
        ("shard:gpu:2\n", False),
    ],
)
def test_gpus_are_seen_among_what_nodes_offer(monkeypatch: pytest.MonkeyPatch, gres: str, expected: bool) -> None:
    monkeypatch.setattr(slurm, "answer", lambda *command: gres)
    assert slurm.has_gpus() is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("accounting_storage/none", False), ("(null)", False), ("accounting_storage/slurmdbd", True)],
)
def test_accounting_is_read_off_the_configuration(monkeypatch: pytest.MonkeyPatch, value: str, expected: bool) -> None:
    text = (
        f"Configuration data as of today\nAccountingStorageHost   = localhost\nAccountingStorageType   = {value}\nBOOT_TIME=x\n"
    )
    monkeypatch.setattr(slurm, "answer", lambda *command: text)
    assert slurm.has_accounting() is expected


def test_without_slurm_there_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    slurm.answer.cache_clear()
    assert not slurm.has_gpus() and not slurm.has_accounting()
    slurm.answer.cache_clear()
