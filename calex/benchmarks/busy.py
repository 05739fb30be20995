"""What is left of training and dumping while another process keeps one core busy, and does `compute: auto` choose well?

Another process is a loop without end in a session of its own, as another user's would be. On a machine with more cores
than threads, this process and the other one are kept to as many cores as there are threads.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from calex.backbones import training
from calex.backbones.build import build
from calex.backbones.taps import tapping
from calex.benchmarks import Bench, Row, Skipped, row, seconds
from calex.benchmarks.dump import BATCH, CLASSES, POOL, TAPS, TRANSFORM, dump, made_up, prepared
from calex.features.forward import Forward
from calex.system import precision

KEPT = 0.35  # of the throughput of an idle machine
AUTO = 0.9  # of the throughput of the better precision
NETWORK, STEM = "resnet18", "small"  # its first stage has 16 × 16 positions
TRAINED, DUMPED = 256, 1024  # images in one measurement
SETTINGS: dict[str, Any] = {
    "epochs": 1, "batch_size": 128, "learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0005, "label_smoothing": 0.0,
    "schedule": "cosine",
}  # fmt: skip

# It ends with this process, however that ends.
LOOP = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(100_000):
        pass
"""

Work = Callable[[str], object]


def measure(bench: Bench) -> list[Row]:
    """Rows for training and for dumping, in every precision that the device has."""
    if bench.device.type != "cpu":
        raise Skipped("it is about the threads of a CPU")
    with kept_to(bench.threads):
        return [*of_training(bench), *of_dumping(bench)]


def of_training(bench: Bench) -> list[Row]:
    """Rows for a backbone's training."""
    count = max(bench.scaled(TRAINED), 2)
    images, labels, _ = made_up(count)
    model = build(NETWORK, STEM, CLASSES)

    def train(compute: str) -> None:
        training.train(
            model, images, labels, TRANSFORM, {"shift": 0, "flip": True}, SETTINGS, 0, compute, bench.device, "benchmark"
        )  # fmt: skip

    trial = training.trial(model, images, labels, TRANSFORM, SETTINGS, bench.device)
    return rows("training", train, trial, count, bench)


def of_dumping(bench: Bench) -> list[Row]:
    """Rows for filling a feature store."""
    count, folder = bench.scaled(DUMPED), bench.folder / "dump"
    images, labels, index = made_up(count)
    model, layout = prepared(NETWORK, STEM, count, bench.device)

    def whole(compute: str) -> None:
        dump(folder, model, layout, images, labels, index, bench.device, compute)
        shutil.rmtree(folder)

    with tapping(model, TAPS, POOL) as outputs:
        forward = Forward(
            model, outputs, layout.taps, CLASSES, layout.precision, TRANSFORM, {}, BATCH, "float32", bench.device
        )  # fmt: skip
        return rows(
            "dumping", whole, lambda compute: forward.computing(compute)(images[:BATCH], index[:BATCH], 0), count, bench
        )


def rows(name: str, work: Work, trial: Work, count: int, bench: Bench) -> list[Row]:
    """Throughput kept in each precision, and that of `auto` beside the better one. count: images of one `work`."""
    computes = precision.candidates(bench.device)
    idle, busy = in_turn(work, computes, bench.repeats)
    chosen = {"idle": precision.fastest(precision.measure(trial, computes))}
    with busy_core():
        chosen["one core busy"] = precision.fastest(precision.measure(trial, computes))

    def rate(times: np.ndarray) -> str:
        return f"{count / np.median(times):,.4g} images/s"

    ratios = [
        row(
            f"{name}, one core busy / idle, {compute}", idle[compute], busy[compute], KEPT, False,
            f"{rate(busy[compute])} beside a busy core, {rate(idle[compute])} without",
        )
        for compute in computes
    ]  # fmt: skip
    for state, times in (("idle", idle), ("one core busy", busy)):
        auto, best = chosen[state], min(computes, key=lambda compute: float(np.median(times[compute])))
        rates = ", ".join(f"{compute} {rate(times[compute])}" for compute in computes)
        ratios.append(
            row(f"{name}, auto / better precision, {state}", times[best], times[auto], AUTO, False, f"auto is {auto}; {rates}")
        )
    return ratios


def in_turn(work: Work, computes: list[str], repeats: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(repeats,) seconds of each precision on an idle machine and beside a busy core, in turn after an uncounted round."""
    times: dict[str, list[list[float]]] = {"idle": [], "busy": []}
    for compute in computes:
        work(compute)
    for _ in range(repeats):
        times["idle"].append([seconds(lambda: work(compute)) for compute in computes])  # noqa: B023
        with busy_core():
            times["busy"].append([seconds(lambda: work(compute)) for compute in computes])  # noqa: B023
    idle, busy = (dict(zip(computes, np.array(times[state]).T, strict=True)) for state in ("idle", "busy"))
    return idle, busy


@contextmanager
def busy_core() -> Iterator[subprocess.Popen[bytes]]:
    """Inside the block a process computes without end on one core."""
    process = subprocess.Popen([sys.executable, "-c", LOOP, str(os.getpid())], start_new_session=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@contextmanager
def kept_to(cores: int) -> Iterator[None]:
    """Threads and processes that start inside the block stay on so many cores, where the system can do that."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
