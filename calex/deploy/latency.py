"""How long a cascade takes beside the network that it came from: both measured in turn, stage by stage where time goes."""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from calex.deploy.cascade import Cascade
from calex.deploy.sweep import without_thresholds
from calex.errors import CalexError
from calex.simulation.cost import Costs
from calex.simulation.scores import score, summary
from calex.system.precision import autocast

ROUNDS = 5  # at least
SECONDS = 2.0  # of work of each, at least


@dataclass(frozen=True)
class Latency:
    """One size of batch, in seconds an image: medians, and of the speed-up the least and the largest of all rounds.

    predicted: how many times faster the cascade is by its FLOPs, at the exits that the images took. shares: of the cascade's
    time, by part.
    """

    batch: int
    images: int
    network: float
    cascade: float
    speed_up: float
    low: float
    high: float
    predicted: float
    shares: dict[str, float]
    joules: dict[str, float]


def measure(
    cascades: Sequence[Cascade], inputs: torch.Tensor, batch: int, rounds: int = ROUNDS, seconds: float = SECONDS
) -> list[Latency]:
    """Time cascades and the plain network over the same images in batches of one size, all in turn.

    Parameters
    ----------
    cascades : sequence of Cascade
        One network's at several operating points, on its device.
    inputs : (N, channels, S, S) float32
        Prepared images there, as many as a round takes.
    batch : int
        Images at a time.
    rounds : int
        How many of each count, at least; the first is not counted.
    seconds : float
        How long each is measured, at least.

    Returns
    -------
    list of Latency
        Of each cascade.
    """
    parts = [part.contiguous(memory_format=torch.channels_last) for part in inputs.split(batch)]
    first, count = cascades[0], len(inputs)
    works: list[Callable[[], Any]] = [partial(_each, partial(_plain, first), parts)]
    works += [partial(_each, cascade, parts) for cascade in cascades]
    energy, times, joules = Energy(first.device), [list[float]() for _ in works], [list[float]() for _ in works]
    for work in works:
        _timed(work, first.device)
    while min(map(len, times)) < rounds or min(map(sum, times)) < seconds:
        for place, work in enumerate(works):
            before = energy.joules()
            times[place].append(_timed(work, first.device))
            joules[place].append(energy.joules() - before)
    plain, *others = (np.array(each) for each in times)
    used = [statistics.median(values) / count for values in joules]
    return [
        Latency(
            batch, count, float(np.median(plain)) / count, float(np.median(own)) / count,
            float(np.median(plain / own)), float(np.min(plain / own)), float(np.max(plain / own)),
            _predicted(cascade, parts), _shares(cascade, parts),
            {"network": used[0], "cascade": used[place]} if energy.known else {},
        )
        for place, (cascade, own) in enumerate(zip(cascades, others, strict=True), start=1)
    ]  # fmt: skip


def _each(work: Callable[[torch.Tensor], Any], parts: Sequence[torch.Tensor]) -> list[Any]:
    return [work(part) for part in parts]


def _predicted(cascade: Cascade, parts: Sequence[torch.Tensor]) -> float:
    """How many times fewer FLOPs than the network the cascade needs for some images."""
    exits = torch.cat([cascade(part).exit for part in parts]).cpu().numpy()
    return float(cascade.costs.backbone / cascade.costs.by_exit()[exits].mean())


def _shares(cascade: Cascade, parts: Sequence[torch.Tensor]) -> dict[str, float]:
    meter = _Meter(cascade)
    with meter:
        _each(cascade, parts)
    return meter.shares()


@torch.inference_mode()
def _plain(cascade: Cascade, inputs: torch.Tensor) -> torch.Tensor:
    """What the plain network answers, down to its largest class."""
    with autocast(cascade.device, cascade.about["compute"]):
        return cascade.network(inputs.to(cascade.dtype)).float().log_softmax(1).argmax(1).cpu()


def _timed(work: Callable[[], Any], device: torch.device) -> float:
    """The wall time of some work; on a GPU the time between two events, with everything that it waits for on the host."""
    if device.type != "cuda":
        begun = time.perf_counter()
        work()
        return time.perf_counter() - begun
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    first.record()
    work()
    last.record()
    torch.cuda.synchronize(device)
    return first.elapsed_time(last) / 1000


class _Meter:
    """Where the time of a cascade goes: in the stages of the network, in the branches, and in what is around them."""

    def __init__(self, cascade: Cascade) -> None:
        self.cascade, self.spent, self.whole = cascade, {"stages": 0.0, "branches": 0.0}, 0.0

    def __enter__(self) -> None:
        self.begun, self.exit = self._now(), self.cascade.branches.exit
        self.handles = [
            handle
            for stage in self.cascade.stages
            for handle in (stage.register_forward_pre_hook(self._start), stage.register_forward_hook(self._stop))
        ]

        def timed(*arguments: Any) -> Any:
            begun = self._now()
            given = self.exit(*arguments)
            self.spent["branches"] += self._now() - begun
            return given

        self.cascade.branches.exit = timed  # type: ignore[method-assign,assignment]

    def __exit__(self, *_: object) -> None:
        self.whole = self._now() - self.begun
        del self.cascade.branches.exit
        for handle in self.handles:
            handle.remove()

    def _now(self) -> float:
        if self.cascade.device.type == "cuda":
            torch.cuda.synchronize(self.cascade.device)
        return time.perf_counter()

    def _start(self, *_: Any) -> None:
        self.spent["stages"] -= self._now()

    def _stop(self, *_: Any) -> None:
        self.spent["stages"] += self._now()

    def shares(self) -> dict[str, float]:
        shares = {name: spent / self.whole for name, spent in self.spent.items()}
        return shares | {"routing": 1 - sum(shares.values())}


class Energy:
    """What a GPU has used since its driver was loaded, by NVML; unknown without a GPU or the package `nvidia-ml-py`."""

    def __init__(self, device: torch.device) -> None:
        self.known = False
        if device.type == "cuda":
            with suppress(Exception):  # the package's own errors, or that it is not installed
                import pynvml

                pynvml.nvmlInit()
                self.handle, self.library = pynvml.nvmlDeviceGetHandleByIndex(device.index or 0), pynvml
                self.joules_now()
                self.known = True

    def joules_now(self) -> float:
        """Joules so far, where they are known."""
        return self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle) / 1000

    def joules(self) -> float:
        """Joules so far; 0 where they are unknown."""
        return self.joules_now() if self.known else 0.0


def with_shares(cascade: Cascade, inputs: torch.Tensor, shares: np.ndarray) -> Cascade:
    """Give a cascade at one more operating point, at which so many of some images leave at each exit.

    What images cost depends on where they leave and not on what they show: this times an operating point without its images.

    shares: (K + 1,), of each exit; they sum to 1.
    """
    staying, gone, before = np.arange(len(inputs)), 0.0, None
    values: Sequence[Any] = [inputs]
    thresholds = np.full((1, len(shares) - 1, len(cascade.classes)), np.inf)
    for k, share in enumerate(shares[:-1].tolist()):
        said, confidence, values, before = cascade.run(k, values, before)
        name = cascade.about["score"]
        scores = score(name, summary(said, confidence), said.shape[1])[staying].astype(np.float64)
        gone += share
        leaving = round(gone * len(inputs)) - (len(inputs) - len(staying))
        if leaving > 0 and len(staying):
            order = np.argsort(-scores, kind="stable")
            thresholds[0, k] = -np.inf if leaving >= len(staying) else scores[order[leaving - 1]]
            staying = staying[scores < thresholds[0, k, 0]]
    other = copy.copy(cascade)
    nothing = without_thresholds(len(shares) - 1, len(cascade.classes))
    other.sweep = replace(nothing, thresholds=thresholds, exit_share=shares[None])
    other.point = 0
    return other


def shares_for(costs: Costs, target: float) -> np.ndarray:
    """Shares (K + 1,) of exits at which an image costs `target` of the network in the mean, spread over all exits.

    They are geometric, as the policy `budgeted` has them: q^k. Raises CalexError where every exit costs more, or less.
    """
    cost = costs.by_exit() / costs.backbone

    def shares(deeper: float) -> np.ndarray:
        parts = np.array([deeper**k * (1 - deeper) ** (len(cost) - 1 - k) for k in range(len(cost))])
        return parts / parts.sum()

    low, high = 0.0, 1.0
    if not cost[0] < target < cost[-1]:
        raise CalexError(f"no shares of exits cost {target:g} of the network: these cost {cost[0]:.3f} to {cost[-1]:.3f}")
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if float(shares(middle) @ cost) < target else (low, middle)
    return shares(low)
