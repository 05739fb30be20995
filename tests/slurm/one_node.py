"""The cluster of one node for as long as something needs it; who comes second waits."""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

SCRIPT = Path(__file__).with_name("cluster")


def hindrance() -> str:
    """Why no cluster can be had on this machine; empty where one can."""
    return subprocess.run([SCRIPT, "check"], stderr=subprocess.PIPE, text=True, check=False).stderr.strip()


@contextmanager
def running() -> Iterator[None]:
    with Path(gettempdir(), "calex-slurm.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # goes with its process, also where that is killed
        # Not into a pipe: the daemons would keep it open.
        with TemporaryFile("w+") as log:
            started = subprocess.run([SCRIPT, "start"], stdout=log, stderr=log, check=False)
            log.seek(0)
            said = log.read().strip()
        if started.returncode:
            raise RuntimeError(said)
        try:
            yield
        finally:
            subprocess.run([SCRIPT, "stop"], check=True)
