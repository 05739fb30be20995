"""Locks: one holder at a time, whatever the file system can do, and nothing left behind that stops the next run."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from conftest import REPOSITORY

from calex.errors import CalexError
from calex.system import locks
from calex.system.locks import guard_of, locked


@pytest.fixture(params=[None, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, "windows"])
def system(request, monkeypatch):
    """A system with locks, file systems without them, and one without `fcntl` at all."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, os.strerror(request.param))

    if request.param == "windows":
        monkeypatch.setattr(locks, "fcntl", None)
    elif request.param:
        monkeypatch.setattr(locks.fcntl, "flock", refuse)
    return request.param


def test_a_second_holder_is_refused_and_the_file_is_gone_afterwards(system, tmp_path):
    path = tmp_path / "new folder" / "x.lock"
    for _ in range(2):
        with locked(path, "training"):
            with pytest.raises(CalexError, match="another training is running") as caught, locked(path, "training"):
                pass
            assert "\n" not in str(caught.value)
        assert list(path.parent.iterdir()) == []


def test_who_waits_gets_it_next(system, tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PAUSE", 0.01)
    path, order, inside = tmp_path / "x.lock", [], threading.Event()

    def second() -> None:
        inside.wait()
        with locked(path, "download", wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    thread.start()
    with locked(path, "download", wait=True):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"] and list(tmp_path.iterdir()) == []


def test_an_error_inside_lets_go(system, tmp_path):
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "x.lock", "training"):
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_lack_of_locks_is_told_as_it_is(tmp_path, monkeypatch):
    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(locks.fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output error") as caught, locked(tmp_path / "x.lock", "training"):
        pass
    assert caught.value.filename == str(tmp_path / "x.lock")


HOLD = """
import errno, os, sys, time
from pathlib import Path
from calex.system import locks
def refuse(*_):
    raise OSError(errno.ENOLCK, "No locks available")
locks.fcntl.flock = refuse
with locks.locked(Path(sys.argv[1]), "training"):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("system", [errno.ENOLCK], indirect=True)
def test_without_locks_a_live_process_is_named_and_a_killed_one_is_no_obstacle(system, tmp_path):
    path = tmp_path / "x.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path)], stdout=subprocess.PIPE, text=True, cwd=REPOSITORY
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(CalexError) as caught, locked(path, "training"):
            pass
        assert str(caught.value) == (
            f"{path}.holder: another training is running (process {holder.pid} on {socket.gethostname()}); "
            "wait for it, or delete this file if it has ended"
        )
    finally:
        holder.kill()
        holder.communicate()
    assert Path(f"{path}.holder").exists()
    with locked(path, "training"):
        assert Path(f"{path}.holder").read_text() == f"{os.getpid()} {socket.gethostname()}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("system", [errno.ENOLCK], indirect=True)
@pytest.mark.parametrize("text", ["1 another-host", "", "no process"])
def test_without_locks_what_cannot_be_known_is_never_taken_over(system, tmp_path, text):
    holder = tmp_path / "x.lock.holder"
    holder.write_text(text)
    with pytest.raises(CalexError, match="delete this file if it has ended"), locked(tmp_path / "x.lock", "training"):
        pass
    assert holder.read_text() == text


def test_of_many_threads_one_takes_over(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "fcntl", None)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    start, inside, most, took = threading.Barrier(8), [], [0], []

    def one() -> None:
        start.wait()
        try:
            with locked(tmp_path / "x.lock", "training"):
                inside.append(1)
                most[0] = max(most[0], len(inside))
                took.append(1)
                inside.pop()
        except CalexError:
            pass

    (tmp_path / "x.lock.holder").write_text(f"{ended.pid} {socket.gethostname()}")
    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert took and most[0] == 1


def test_the_guard_of_a_file_is_hidden_beside_it(tmp_path):
    assert guard_of(tmp_path / "a.npz") == tmp_path / ".a.npz.lock"


def test_every_module_can_be_imported_where_unix_has_no_part():
    """As on Windows; a process of its own, because modules are imported once."""
    script = """
        import importlib, pkgutil, sys
        sys.modules["fcntl"] = sys.modules["resource"] = None
        import calex
        for module in pkgutil.walk_packages(calex.__path__, "calex."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr
