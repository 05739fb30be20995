"""A dump that is stopped anywhere, by anything, ends in the store that it would have made, or in none."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import re
import subprocess
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from feature_stores import PROVENANCE, SMALL, dump, features, hashes

from calex.errors import CalexError
from calex.features import chunks, writer
from calex.features.layout import Layout
from calex.features.store import open_store, verify
from calex.features.writer import Dump

LONG = Layout(views=2, images=250, taps=((32, 8, 8), (64, 4, 4)), classes=10, rows=10)


def attempt(folder, layout=LONG, seed=0, stop_after=None):
    """A dump that gives up after some chunks; the number of chunks that it had to write."""
    data = features(layout, seed)
    with Dump(folder, "train", layout, data.labels, data.index, PROVENANCE) as unfinished:
        for count, (view, chunk, start, stop) in enumerate(unfinished.pending()):
            if count == stop_after:
                return count
            unfinished.write(view, chunk, [tap[view, start:stop] for tap in data.taps], data.log_softmax[view, start:stop])
        unfinished.finish()
    return count + 1


def accepted(folder):
    """The hashes of the store that `open` accepts, every byte of it verified, or None."""
    try:
        open_store(folder, "train")
    except CalexError:
        return None
    assert verify(folder, "train") == []
    return {name: value for name, value in hashes(folder).items() if not name.startswith(".")}


@pytest.mark.parametrize("replacing", [False, True])
def test_kill_9_at_random_moments(tmp_path, replacing):
    """Twenty in all: whatever was there, opening refuses it or finds it whole, and the next attempt ends right."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["calex.features.writer", "zarr"])

    def started(folder):
        process = processes.Process(target=dump, args=(folder, LONG))
        process.start()
        return process

    started(tmp_path / "warm").join()
    began = time.monotonic()
    started(tmp_path / "undisturbed").join()
    lasts, truth = time.monotonic() - began, hashes(tmp_path / "undisturbed")
    assert truth == hashes(tmp_path / "warm")
    moments = random.Random(replacing)
    for trial in range(10):
        folder, old = tmp_path / str(trial), None
        if replacing:
            dump(folder, SMALL)
            old = hashes(folder)
        process = started(folder)
        time.sleep(moments.uniform(0, 1.1 * lasts))
        process.kill()
        process.join()
        assert accepted(folder) in (None, old, truth)
        dump(folder, LONG)
        assert hashes(folder) == truth


class Stopped(BaseException):
    """What nobody catches by accident."""


@contextmanager
def stopped_at(monkeypatch, module, name, call):
    """The dump ends at the given call of a function, before or after it has acted (zarr's own threads may go on)."""
    original, calls = getattr(module, name), iter(range(1000))

    def stop(*args, **kwargs):
        if not threading.current_thread().name.startswith(("MainThread", "chunk-writer")):
            return original(*args, **kwargs)
        now = next(calls)
        if now == call // 2 and call % 2 == 0:
            raise Stopped
        result = original(*args, **kwargs)
        if now == call // 2:
            raise Stopped
        return result

    with monkeypatch.context() as patch:
        patch.setattr(module, name, stop)
        yield


@pytest.mark.parametrize("call", range(10))
@pytest.mark.parametrize(
    "step", [(os, "replace"), (os, "unlink"), (writer, "create"), (chunks, "write"), (writer.shutil, "rmtree")]
)
def test_stopped_at_each_step(tmp_path, monkeypatch, step, call):
    """Also where an older store is being replaced."""
    dump(tmp_path / "whole")
    truth = hashes(tmp_path / "whole")
    for old in (False, True):
        folder = tmp_path / str(old)
        before = None
        if old:
            dump(folder, seed=1)
            before = hashes(folder)
        try:
            with stopped_at(monkeypatch, *step, call):
                dump(folder)
        except Stopped:
            assert accepted(folder) in (None, before, truth)
        dump(folder)
        assert hashes(folder) == truth


def test_whole_chunks_are_not_written_again(tmp_path):
    total = LONG.views * LONG.chunks
    assert attempt(tmp_path, stop_after=30) == 30
    rest = attempt(tmp_path)
    assert total - 30 <= rest < total
    assert verify(tmp_path, "train") == []


def test_a_damaged_leftover_is_written_again(tmp_path):
    dump(tmp_path / "truth", LONG)
    attempt(tmp_path / "dump", stop_after=40)
    (partial,) = (tmp_path / "dump").glob(".train.zarr.*.partial")
    rng = np.random.default_rng(0)
    for path in rng.choice(sorted((partial / "store.zarr" / "tap0").glob("c*")), 5, replace=False):
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
    with open(partial / "journal.jsonl", "a") as journal:
        journal.write('["tap0/c.1.24.0.0.0", 12')
    dump(tmp_path / "dump", LONG)
    assert hashes(tmp_path / "dump") == hashes(tmp_path / "truth")


def test_another_dump_does_not_take_up_the_leftover(tmp_path):
    """Other data, same shapes: nothing of the first attempt is in the store, nor left behind."""
    attempt(tmp_path / "dump", SMALL, seed=1, stop_after=4)
    dump(tmp_path / "dump", SMALL)
    dump(tmp_path / "truth", SMALL)
    assert hashes(tmp_path / "dump") == hashes(tmp_path / "truth")


def test_other_code_does_not_take_up_the_leftover_but_makes_the_same_manifest(tmp_path):
    data = features(SMALL)

    def begun(folder, code):
        return Dump(folder, "train", SMALL, data.labels, data.index, PROVENANCE, code=code)

    with begun(tmp_path, ["before"]) as first:
        for view, chunk, start, stop in list(first.pending())[:3]:
            first.write(view, chunk, [tap[view, start:stop] for tap in data.taps], data.log_softmax[view, start:stop])
    with begun(tmp_path, ["before"]) as again:
        assert len(list(again.pending())) < 2 * SMALL.chunks
    with begun(tmp_path, ["after"]) as other:
        assert len(list(other.pending())) == 2 * SMALL.chunks
        for view, chunk, start, stop in other.pending():
            other.write(view, chunk, [tap[view, start:stop] for tap in data.taps], data.log_softmax[view, start:stop])
        other.finish()
    dump(tmp_path / "truth", SMALL)
    assert hashes(tmp_path) | hashes(tmp_path / "truth") == hashes(tmp_path)
    assert not list(tmp_path.glob(".*.partial"))


def test_two_dumps_cannot_meet(tmp_path):
    data = features(SMALL)
    with (
        Dump(tmp_path, "train", SMALL, data.labels, data.index, PROVENANCE),
        pytest.raises(CalexError, match="another dump of this split is running"),
    ):
        dump(tmp_path)
    dump(tmp_path, split="test")
    dump(tmp_path)


def test_a_failing_writer_stops_the_dump(tmp_path, monkeypatch):
    """What goes wrong in a writer thread comes out of `write` or `finish`, as one line."""

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data = features(SMALL)
    with (
        pytest.raises(CalexError, match="the disk is full; make room and rerun"),
        Dump(tmp_path, "train", SMALL, data.labels, data.index, PROVENANCE) as writing,
    ):
        monkeypatch.setattr(chunks, "write", full)
        for view, chunk, start, stop in writing.pending():
            writing.write(view, chunk, [tap[view, start:stop] for tap in data.taps], data.log_softmax[view, start:stop])
        writing.finish()
    monkeypatch.undo()
    dump(tmp_path)
    assert verify(tmp_path, "train") == []


def may_mount() -> bool:
    """Whether this process has Linux's capability 21, CAP_SYS_ADMIN."""
    status = Path("/proc/self/status")
    held = re.search(r"^CapEff:\s*(\w+)", status.read_text(), re.M) if status.exists() else None
    return held is not None and bool(int(held[1], 16) >> 21 & 1)


NEEDS_MOUNT = pytest.mark.skipif(not may_mount(), reason="mounts a disk of 8 MB to fill it, which only root on Linux may")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 8 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", disk], check=True)


@NEEDS_MOUNT
def test_the_disk_fills_up(small_disk):
    """During the dump: a clear error, nothing under a final name, and it goes on once there is room."""
    folder, layout = small_disk / "features", Layout(1, 500, ((64, 8, 8),), 10, rows=20)
    data = features(layout)
    with (
        pytest.raises(CalexError, match="the disk is full; make room and rerun"),
        Dump(folder, "train", layout, data.labels, data.index, PROVENANCE) as writing,
    ):
        (small_disk / "somebody's").write_bytes(bytes(6 << 20))
        for view, chunk, start, stop in writing.pending():
            writing.write(view, chunk, [tap[view, start:stop] for tap in data.taps], data.log_softmax[view, start:stop])
        writing.finish()
    assert [path.name for path in folder.iterdir() if not path.name.startswith(".")] == []
    (small_disk / "somebody's").unlink()
    assert 0 < attempt(folder, layout) < layout.chunks
    assert verify(folder, "train") == []


@NEEDS_MOUNT
def test_a_disk_with_too_little_room_is_refused_before_the_start(small_disk):
    layout = Layout(1, 2000, ((64, 8, 8),), 10)
    with pytest.raises(CalexError, match=r"needs 1\d\.\d MB more and the disk has .* make room"):
        dump(small_disk / "features", layout)
    assert list((small_disk / "features").iterdir()) == []
    dump(small_disk / "features", SMALL)
    with pytest.raises(CalexError, match=r"delete .*train\.zarr"):
        dump(small_disk / "features", layout)
    assert verify(small_disk / "features", "train") == []
