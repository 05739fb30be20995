"""Where branches could read a network: every module that gives one feature map a pass, and some of them proposed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

from torch import nn

from calex.backbones.shares import SHARES
from calex.backbones.taps import Tap, tap_of
from calex.backbones.trace import trace
from calex.errors import CalexError

SENSIBLE = (0.05, 0.95)  # earlier there is nothing to read yet, later nothing to save
# What a shorter name and the end of a block are worth, in shares of FLOPs: inside a block there is no finished map.
A_LEVEL_DEEPER = 0.1
NOT_A_BLOCKS_END = 0.25


def candidates(
    model: nn.Module, input_size: int, pool: int | None, network: str, channels: int = 3, class_token: str = "drop"
) -> tuple[list[Tap], int]:
    """Every module that gives exactly one map in a pass, in the order of the pass, and the network's FLOPs.

    Maps are (B, C, H, W), or what can be read as one: channels last, tokens of a square grid.
    """
    names = [name for name, _ in model.named_modules() if name]
    outputs, flops = trace(model, names, input_size, network, channels, class_token)
    times = Counter(output.name for output in outputs)
    return [tap_of(output, pool) for output in outputs if output.layout is not None and times[output.name] == 1], flops


def depth(name: str) -> int:
    """1 for `layer1`, 2 for `layer1.0`."""
    return name.count(".") + 1


def propose(taps: Sequence[Tap], flops: int, targets: Sequence[float] = SHARES) -> list[Tap]:
    """One tap a target, in the order of the pass: near its share of FLOPs, better a block's end with a short name.

    Of all such choices of different FLOPs the one of the least total cost; empty when there are too few to choose from.
    """
    places = [k for k, tap in enumerate(taps) if SENSIBLE[0] <= tap.flops / flops <= SENSIBLE[1]]
    shallowest = min((depth(taps[k].name) for k in places), default=0)
    blocks = {tap.name.rpartition(".")[0] for tap in taps}
    penalty = {
        k: A_LEVEL_DEEPER * (depth(taps[k].name) - shallowest) + NOT_A_BLOCKS_END * (taps[k].name not in blocks) for k in places
    }
    # Equal FLOPs are one map under several names. The best name is best for every target, so the others need no look.
    names = (min(same, key=penalty.__getitem__) for _, same in itertools.groupby(places, key=lambda k: taps[k].flops))
    # best[n]: the least cost of the first n targets with the maps seen so far, and the places chosen.
    best: list[tuple[float, list[int]] | None] = [(0.0, [])] + [None] * len(targets)
    for k in names:
        for n in range(len(targets), 0, -1):
            if (before := best[n - 1]) is None:
                continue
            cost = before[0] + abs(taps[k].flops / flops - targets[n - 1]) + penalty[k]
            if (chosen := best[n]) is None or cost < chosen[0]:
                best[n] = (cost, [*before[1], k])
    return [taps[k] for k in best[-1][1]] if best[-1] else []


def names_of(
    taps: Sequence[str] | str,
    model: nn.Module,
    input_size: int,
    pool: int | None,
    network: str,
    channels: int = 3,
    class_token: str = "drop",
) -> list[str]:
    """Names of the modules that `taps` stands for: those that it lists, one, or the places that `auto` takes.

    Raises CalexError where the network has too few maps for `auto`.
    """
    if taps != "auto":
        return [taps] if isinstance(taps, str) else list(taps)
    found, flops = candidates(model, input_size, pool, network, channels, class_token)
    names = [tap.name for tap in propose(found, flops)]
    if not names:
        raise CalexError(
            f"taps: auto finds no {len(SHARES)} maps in {network}; name those that there are, `python -m calex taps` lists them"
        )
    return names
