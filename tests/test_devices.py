"""Where a step may compute: what is asked for is there, or one line says that it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import REPOSITORY

from calex.__main__ import main
from calex.errors import CalexError
from calex.system import devices

BLOCK = (
    '{"network":"resnet18","stem":"cifar","input_size":8,"augment":{},"head_holdout":0,"normalisation":null,'
    '"training":{},"seed":0,"trained_on":[]}'
)


@pytest.mark.parametrize(
    ("device", "threads", "said"),
    [
        (
            f"cuda:{torch.cuda.device_count()}",
            1,
            f"was asked for, but torch sees {torch.cuda.device_count()} GPUs; use device:",
        ),
        ("gpu", 1, "device: 'gpu' is not a device; use auto, cpu, mps, cuda or cuda:N"),
        ("meta", 1, "device: 'meta' is not a device"),
        ("cuda:x", 1, "device: 'cuda:x' is not a device"),
        ("cpu", 0, "--threads: 0 is less than 1"),
        ("cpu", -2, "--threads: -2 is less than 1"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(
    device: str, threads: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "no.npz", "--settings", BLOCK, "--out", str(tmp_path / "out" / "backbone.safetensors")]
    assert main(["train-backbone", *arguments, "--device", device, "--threads", str(threads)]) == 2
    line = capsys.readouterr().err
    assert line.startswith("calex train-backbone: error: ") and said in line and line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU")
def test_an_apple_gpu_that_is_not_there() -> None:
    with pytest.raises(CalexError, match="'mps' was asked for, but torch finds no Apple GPU; use device: auto or cpu"):
        devices.claim("mps", 1)


def test_auto_is_what_is_there() -> None:
    threads = torch.get_num_threads()
    assert devices.claim("auto", threads).type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert torch.get_num_threads() == threads


GRADIENT = """
import torch
from calex.system import devices

devices.claim("cpu", 2)
layer = torch.nn.Conv2d(3, 16, 3)
layer(torch.randn(4, 3, 16, 16)).sum().backward()
print(torch.get_num_threads())
"""


@pytest.mark.parametrize(("limit", "threads"), [("1", "1"), ("2", "2"), ("nonsense", "2")])
def test_fewer_threads_than_asked_for_are_a_warning_and_no_deadlock(limit: str, threads: str) -> None:
    """oneDNN's kernels wait for as many threads as torch counts on; OMP_THREAD_LIMIT starts fewer."""
    environment = os.environ | {"OMP_THREAD_LIMIT": limit, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", GRADIENT], env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0 and done.stdout.strip() == threads, done.stderr
    assert ("warning: OMP_THREAD_LIMIT=1 allows 1 of 2 threads" in done.stderr) == (limit == "1")
