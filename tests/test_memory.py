"""Too little memory is one line that says where, how much was asked for and what to lower; and is never called damage."""

from __future__ import annotations

import errno
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from conftest import REPOSITORY
from made_up_exits import random_exits, write

from calex import images
from calex.__main__ import COMMANDS, main
from calex.backbones.transform import channel_statistics
from calex.errors import CalexError
from calex.simulation import cascade
from calex.system import memory
from calex.system.files import read_npz, write_npz

SETTINGS = '{"policy":{"name":"global"},"score":"confidence","correct":"label","folds":3}'


def calibrate(folder: Path) -> int:
    paths = write(folder, {"val": [random_exits(0)]})
    return main(["calibrate", "--exits", *map(str, paths), "--settings", SETTINGS, "--out", str(folder / "t.parquet")])


ERRORS = [
    (MemoryError(), ""),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), ""),
    (
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
            "400000000000 bytes. Error code 12 (Cannot allocate memory)"
        ),
        " (tried to allocate 400000000000 bytes)",
    ),
    (
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 8 GiB"),
        " (tried to allocate 20.00 GiB)",
    ),
]


@pytest.mark.parametrize(("error", "asked"), ERRORS)
def test_every_library_s_error_is_one_line(error, asked, tmp_path, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(cascade.np, "full", fail)
    assert calibrate(tmp_path) == 2
    said = capsys.readouterr().err
    assert said.startswith("calex calibrate: error: not enough memory in calex.")
    assert said.endswith(f"{asked}; lower the policy's `steps`, or evaluation.folds, or give the step more memory\n")
    assert said.count("\n") == 1 and not (tmp_path / "t.parquet").exists()


def test_an_array_that_is_too_large_is_described():
    try:
        np.ones((10**6, 10**6, 10**3))
    except MemoryError as error:
        assert memory.ran_out(error)
        assert memory.described(error).endswith(
            "not enough memory (unable to allocate 7.11 PiB for an array with shape (1000000, 1000000, 1000))"
        )


@pytest.mark.parametrize("error", [RuntimeError("shapes do not match"), ValueError("out of memory"), OSError(errno.EIO, "x")])
def test_other_errors_are_no_want_of_memory(error):
    assert not memory.ran_out(error)


def test_a_fault_of_ours_keeps_its_traceback(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(cascade.np, "full", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        calibrate(tmp_path)


def test_a_real_limit(tmp_path):
    """A whole file that does not fit is not called damaged."""
    write_npz(tmp_path / "exits1.npz", {"classes": np.zeros(400 << 20, np.uint8)})
    script = f"""
        import resource, sys
        from calex.__main__ import main
        from calex.steps import inspect, weigh_survivors
        from calex.system import files
        weigh_survivors.run = lambda args: files.read_npz({str(tmp_path / "exits1.npz")!r})
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20),) * 2)
        sys.exit(main(["weigh-survivors", "--exits", "x", "--settings", "{{}}", "--out", "x"]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 2, done.stderr
    assert done.stderr == (
        "calex weigh-survivors: error: not enough memory in calex.system.files.read_npz (unable to allocate 400. MiB for an array with "
        "shape (419430400,)); lower views, or give the step more memory\n"
    )


def test_images_larger_than_the_memory_are_read_where_they_are_looked_at(tmp_path):
    count, side = 3 << 10, 256  # 192 MiB
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 1), np.uint8)
    dataset = images.Images(pixels, np.arange(count) % 2, (np.arange(count) // 2 % 3).astype(np.uint8), np.array(["a", "b"]))
    images.save(tmp_path / "images.npz", dataset)
    script = f"""
        import resource
        from calex import images
        from calex.backbones.transform import channel_statistics
        resource.setrlimit(resource.RLIMIT_DATA, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + (100 << 20),) * 2)
        dataset = images.load({str(tmp_path / "images.npz")!r})
        train = dataset.of(dataset.indices("train"))
        print(channel_statistics(train, 1), train[:2].sum(), train.shape, dataset.images.flags.writeable)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
    learned = pixels[dataset.indices("train")]
    expected = channel_statistics(learned, 1), learned[:2].sum(), learned.shape, False
    assert done.stdout == f"{' '.join(map(str, expected))}\n"


def test_images_that_cannot_be_mapped_are_no_damaged_file(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(number, "no")  # as mmap does, without the file's name

    write_npz(tmp_path / "images.npz", {"images": np.zeros((2, 2, 2, 1), np.uint8)})
    monkeypatch.setattr(np, "memmap", fail)
    for number in (errno.ENOMEM, errno.ENODEV):
        with pytest.raises(OSError, match=r"images\.npz") as caught:
            read_npz(tmp_path / "images.npz", ["images"], mapped=["images"])
        assert caught.value.errno == number


def test_a_file_that_claims_more_than_it_holds_is_damaged(tmp_path):
    write_npz(tmp_path / "exits1.npz", {"classes": np.zeros(30, np.int64)})
    content = (tmp_path / "exits1.npz").read_bytes()
    (tmp_path / "exits1.npz").write_bytes(content.replace(b"(30,), }              ", b"(9" + b"0" * 14 + b",), }"))
    with pytest.raises(CalexError, match=r"exits1.npz: damaged .*; delete it and rerun train-branch"):
        read_npz(tmp_path / "exits1.npz")


def test_every_step_of_the_workflow_says_what_to_lower():
    for command in COMMANDS[: COMMANDS.index("report") + 1]:
        source = (REPOSITORY / "calex" / "steps" / f"{command.replace('-', '_')}.py").read_text(encoding="utf-8")
        assert "\nLOWER = " in source, command
