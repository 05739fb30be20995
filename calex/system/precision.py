"""The precision a network computes in; where `compute: auto` leaves it open, the fastest one by measurement.

What a CPU can do says little about what is fast on it today: that depends on the network, the size of its images and
batches, the threads, and on what else runs. So the candidates do real work in turn before one is chosen. The choice is
kept in a file beside the result, and whoever asks the same again gets the same answer: a run that was stopped goes on in
its precision, and a result that is made again has the same bits. The times stay in that file, because no two runs measure
the same and the result's own record is compared by its content.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from calex.errors import CalexError, one_line
from calex.system.files import read_json, write_json
from calex.system.locks import guard_of, locked
from calex.system.progress import say

# What convolutions and linear layers are computed in; everything else stays in float32.
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SECONDS = 1.0  # of work in each candidate
ROUNDS = 3  # at least, whatever they take
TOO_SLOW = 4.0  # times as slow as float32 in its first round: not measured further
GAIN = 1.05  # what a lower precision has to gain


def autocast(device: torch.device, compute: str) -> Any:
    """A context in which a network computes in this precision."""
    return nullcontext() if compute == "float32" else torch.autocast(device.type, DTYPES[compute])


def candidates(device: torch.device) -> list[str]:
    """What the device can compute a network in, float32 first. An Apple GPU has float32 alone here."""
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)
        return ["float32", *(["bfloat16"] if fast else []), "float16"]
    if device.type == "cpu" and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return ["float32", "bfloat16"]
    return ["float32"]


def measure(work: Callable[[str], object], computes: Iterable[str]) -> dict[str, float]:
    """Median seconds of `work(compute)` for each precision, the first of which is float32.

    They take turns, so that whatever else the machine does meets all of them; the first round is not counted. A network
    may fail in a lower precision (an operator that mixes types, say): that one is left out.
    """
    first: dict[str, float] = {}
    for compute in computes:
        try:
            first[compute] = seconds(work, compute)
        except RuntimeError as error:  # what torch raises
            if compute == "float32":
                raise
            say(f"the network cannot compute in {compute} ({one_line(error)})")
    reference = first["float32"]
    times: dict[str, list[float]] = {compute: [] for compute, taken in first.items() if taken <= TOO_SLOW * reference}
    if len(times) > 1:
        while min(map(len, times.values())) < ROUNDS or sum(map(sum, times.values())) < SECONDS * len(times):
            for compute, taken in times.items():
                taken.append(seconds(work, compute))
    return {compute: statistics.median(times.get(compute) or [taken]) for compute, taken in first.items()}


def seconds(work: Callable[[str], object], compute: str) -> float:
    """The wall time of `work(compute)`."""
    begun = time.perf_counter()
    work(compute)
    return time.perf_counter() - begun


def fastest(times: dict[str, float]) -> str:
    """The precision with the least time; float32 unless another one gains enough."""
    best = min(times, key=lambda compute: times[compute])
    return best if times["float32"] > GAIN * times[best] else "float32"


def choose(
    compute: str,
    device: torch.device,
    work: Callable[[str], object],
    unit: str,
    record: Path,
    identity: dict[str, Any],
    label: str,
) -> str:
    """The precision to compute in: `compute` itself, or for `auto` the recorded choice, or the fastest in `work` now.

    work: does what is going to be done, in the precision it is given, and waits for its end; unit: what that is called.
    record: the file that keeps the choice and the times; identity: JSON values of what the choice was made for.
    """
    if compute != "auto":
        return compute
    with locked(guard_of(record), "choice of a precision", wait=True):
        if record.exists():
            known = read_json(record, "compute", "identity")
            if known["identity"] == identity and known["compute"] in DTYPES:
                say(f"{label}: in {known['compute']}, as {record} says; delete it to measure again")
                return str(known["compute"])
        times = measure(work, candidates(device))
        chosen = fastest(times)
        write_json(record, {"compute": chosen, "seconds": times, "unit": unit, "identity": identity})
    listed = ", ".join(f"{name} {taken:.3g} s" for name, taken in times.items())
    say(f"{label}: {listed} for {unit}; in {chosen}, see {record}")
    return chosen


def refuse_unscaled(compute: str, device: torch.device) -> None:
    """Training in float16 scales its loss, which is done on CUDA GPUs alone."""
    if compute == "float16" and device.type != "cuda":
        raise CalexError(f"training.compute: float16 needs a GPU, not {device.type}; use bfloat16, float32 or auto")
