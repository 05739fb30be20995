"""Taps: where branches read a network, what stands there, and what has been spent by then."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from calex.backbones.build import uncompiled
from calex.backbones.maps import MAPS, MapLayout, as_map
from calex.backbones.trace import ModuleOutput, modules_of, trace
from calex.errors import CalexError
from calex.system.flops import unfused


@dataclass(frozen=True)
class Tap:
    """Where a branch reads: a module's output, averaged to at most pool×pool.

    shape: (C, H, W) after the pool. full_shape: before it. flops: what the backbone has spent on one image
    when the tap's output exists. layout: how the output is read as a map.
    """

    name: str
    shape: tuple[int, int, int]
    full_shape: tuple[int, int, int]
    flops: int
    layout: MapLayout = MAPS


def pooled_shape(shape: Sequence[int], pool: int | None) -> tuple[int, int, int]:
    """(C, H, W) after `pooled`."""
    channels, height, width = shape
    return (channels, height, width) if pool is None else (channels, min(height, pool), min(width, pool))


def pooled(feature_map: torch.Tensor, pool: int | None) -> torch.Tensor:
    """(B, C, H, W) averaged adaptively to at most pool×pool; as it is when it is smaller or pool is None."""
    _, height, width = pooled_shape(feature_map.shape[1:], pool)
    if (height, width) == tuple(feature_map.shape[-2:]):
        return feature_map
    return nn.functional.adaptive_avg_pool2d(feature_map, (height, width))


@contextmanager
def tapping(
    model: nn.Module,
    taps: Sequence[str],
    pool: int | None,
    dtype: torch.dtype | None = None,
    layouts: Sequence[MapLayout] | None = None,
) -> Iterator[list[torch.Tensor]]:
    """Inside the block, each forward pass leaves the pooled outputs of the taps in the yielded list, in order.

    Parameters
    ----------
    model : torch.nn.Module
        The network, on any device.
    taps : sequence of str
        Names of its modules.
    pool : int or None
        Maps are averaged to at most pool×pool cells; None keeps them whole.
    dtype : torch.dtype, optional
        What the outputs are left in; as they are computed where it is not given.
    layouts : sequence of MapLayout, optional
        How each output is read as a map, as `measure_taps` found; as it is where it is not given.

    Yields
    ------
    list of torch.Tensor
        (B, C, H, W) for each tap, of the last forward pass.

    Raises
    ------
    CalexError
        For a name that the network does not have, with those that it has.
    """
    outputs: list[torch.Tensor] = [torch.empty(0)] * len(taps)

    def keep(position: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            whole = output if layouts is None else as_map(output, layouts[position])
            tap = pooled(whole, pool)
            # The next module may work in place, and what it overwrites is the tap.
            outputs[position] = tap.to(dtype or tap.dtype, copy=tap is whole)

        return hook

    handles = [module.register_forward_hook(keep(i)) for i, module in enumerate(modules_of(model, taps))]
    try:
        with uncompiled(), unfused():
            yield outputs
    finally:
        for handle in handles:
            handle.remove()


def measure_taps(
    model: nn.Module,
    taps: Sequence[str],
    input_size: int,
    pool: int | None,
    network: str | None = None,
    channels: int = 3,
    class_token: str = "drop",
    layout: str | None = None,
) -> tuple[list[Tap], int]:
    """Measure what stands at the taps and what has been spent by then, for one image.

    Parameters
    ----------
    model : torch.nn.Module
        The network, on the CPU or the meta device.
    taps : sequence of str
        Names of its modules, in the order in which a forward pass reaches them.
    input_size : int
        Side of the images, in pixels.
    pool : int or None
        See `tapping`.
    network : str, optional
        What errors call the network; its class where it is not given.
    channels : int
        Of the images.
    class_token, layout : str
        See `trace`.

    Returns
    -------
    list of Tap
        With shapes and cumulative FLOPs.
    int
        FLOPs of the whole network.

    Raises
    ------
    CalexError
        For a tap that is no map (B, C, H, W), is not reached exactly once, or is out of order.
    """
    if len(set(taps)) < len(taps):
        raise CalexError(f"taps: {', '.join(taps)} names one twice; list each once")
    outputs, flops = trace(model, taps, input_size, network, channels, class_token, layout)
    order = [output.name for output in outputs]
    for name in taps:
        times = order.count(name)
        if times != 1:
            often = "is never reached" if times == 0 else f"is reached {times} times"
            raise CalexError(f"taps: '{name}' {often} in a forward pass; tap a module that gives one map")
    for output in outputs:
        if output.layout is None:
            declared = f" that `layout: {layout}` could mean" if layout else ", nor tokens (B, T, D) of a square grid"
            raise CalexError(
                f"taps: '{output.name}' gives no feature map (B, C, H, W) but {output.shape}{declared}; "
                "`python -m calex taps` lists what can be tapped"
            )
    if order != list(taps):
        raise CalexError(f"taps: the network reaches them as {', '.join(order)}; list them in that order")
    return [tap_of(output, pool) for output in outputs], flops


def tap_of(output: ModuleOutput, pool: int | None) -> Tap:
    """Return what a module gave, as the tap that it would be."""
    channels, height, width = output.shape
    shape = (channels, height, width)
    return Tap(output.name, pooled_shape(shape, pool), shape, output.flops, output.layout or MAPS)
