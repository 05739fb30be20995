"""A forward pass on shapes alone: what each module gives, what it costs, and what the network reads and answers."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from calex.backbones import maps, own
from calex.backbones.build import uncompiled
from calex.backbones.maps import MapLayout
from calex.errors import CalexError, one_line, suggestion
from calex.system.flops import counting

PROBES = 8  # images that are made up to see what a network of the user's answers


@dataclass(frozen=True)
class ModuleOutput:
    """One time that a module gave its output, in a forward pass of one image.

    shape: (C, H, W), read as `layout` says; where it is no map, what the module gives, and layout is None. flops: what the
    network had spent by then.
    """

    name: str
    shape: tuple[int, ...]
    layout: MapLayout | None
    flops: int


def modules_of(model: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """Return the modules with these names; an unknown name is an error with the names that exist."""
    known = dict(model.named_modules())
    for name in names:
        if not name or name not in known:
            children = [name for name, _ in model.named_children()]
            close = suggestion(name, [name for name in known if name]) if name else ""
            hint = close if close.startswith("did you mean") else f"the network has: {', '.join(children)} (and their parts)"
            raise CalexError(f"taps: the network has no module '{name}', {hint}")
    return [known[name] for name in names]


def trace(
    model: nn.Module,
    modules: Sequence[str],
    input_size: int,
    network: str | None = None,
    channels: int = 3,
    class_token: str = "drop",
    layout: str | None = None,
) -> tuple[list[ModuleOutput], int]:
    """Trace what modules give for one image, in the order of the pass, and what it costs.

    FLOPs are counted by torch on shapes alone (the meta device): convolutions and matrix products, a multiply-add is two. How
    an output is read as a map is found by a second pass, of two images of twice the size, in which channels stay as many;
    where the network reads one size only, by what is square.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it is copied, and stays as it is.
    modules : sequence of str
        Names of its modules.
    input_size : int
        Side of the image, in pixels.
    network : str, optional
        What errors call the network; its class where it is not given.
    channels : int
        Of the image.
    class_token : str
        What is made of tokens before the grid, one of `maps.CLASS_TOKENS`.
    layout : str, optional
        One of `maps.KINDS`, for every module; found where it is not given.

    Returns
    -------
    list of ModuleOutput
        One for each time that a module gave its output.
    int
        FLOPs of the whole network.

    Raises
    ------
    CalexError
        For a name that the network does not have, and for a network that fails.
    """
    once, flops, _ = _run(model, modules, (1, channels, input_size, input_size), network or type(model).__name__)
    twice: dict[str, tuple[int, ...]] = {}
    larger = torch.empty(2, channels, 2 * input_size, 2 * input_size, device="meta")
    with suppress(Exception):  # as far as it comes
        _pass(_copy(model, "meta"), modules, larger, lambda name, shape, _: twice.update({name: shape}))
    outputs = []
    for name, shape, spent in once:
        found = maps.found(shape, twice.get(name), class_token, layout)
        outputs.append(ModuleOutput(name, maps.map_shape(shape, found) if found else shape[1:], found, spent))
    return outputs, flops


def _copy(model: nn.Module, device: str, training: bool = False) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False).train(training).to(device)


def _pass(
    model: nn.Module, modules: Sequence[str], images: torch.Tensor, on_output: Callable[[str, tuple[int, ...], int], Any]
) -> tuple[int, Any]:
    """FLOPs and output of a forward pass; `on_output` is called for each output of the modules: name, shape, FLOPs so far."""

    def meter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            on_output(name, tuple(output.shape) if isinstance(output, torch.Tensor) else (), counter.get_total_flops())

        return hook

    hooked = modules_of(model, modules)
    with uncompiled(), counting() as counter:
        for module, name in zip(hooked, modules, strict=True):
            module.register_forward_hook(meter(name))
        output = model(images)
    return counter.get_total_flops(), output


def _run(
    model: nn.Module, modules: Sequence[str], shape: tuple[int, int, int, int], network: str, training: bool = False
) -> tuple[list[tuple[str, tuple[int, ...], int]], int, Any]:
    """Make a pass that has to succeed: on shapes alone, or for real where code of the user's makes tensors of its own."""
    failure = ""
    for device in ("meta", "cpu"):
        outputs: list[tuple[str, tuple[int, ...], int]] = []
        try:
            images = torch.zeros(shape, device=device)
            return outputs, *_pass(_copy(model, device, training), modules, images, lambda *what: outputs.append(what))  # noqa: B023
        except CalexError:
            raise
        except Exception as error:  # the network's code: anything can happen
            failure = one_line(error)
    first = _first_channels(model)
    remedy = "correct it or set another input_size" if own.is_own(network) else "set another input_size or network"
    if first not in (1, 3, None):
        remedy = f"its first convolution reads {first} channels, and images have 3, or 1 (grey)"
    raise CalexError(
        f"network: {network} cannot {'train on' if training else 'read'} images of {shape[-1]} px ({failure}); {remedy}"
    )


def _first_channels(model: nn.Module) -> int | None:
    return next((module.in_channels for module in model.modules() if isinstance(module, nn.Conv2d)), None)


def input_channels(model: nn.Module, network: str, input_size: int) -> int:
    """How many channels the network reads: 3, or 1 where only grey images go in."""
    faults = []
    for channels in (1, 3) if _first_channels(model) == 1 else (3, 1):
        try:
            _run(model, [], (1, channels, input_size, input_size), network)
            return channels
        except CalexError as error:
            faults.append(error)
    raise faults[0]


def check_network(model: nn.Module, network: str, input_size: int, classes: int, training: bool = False) -> int:
    """See that a network reads images of a size and answers with logits.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it is copied, and stays as it is.
    network : str
        What errors call it.
    input_size : int
        Side of the images, in pixels.
    classes : int
        How many logits it has to give.
    training : bool
        Whether it is to be trained: then auxiliary logits may follow the first (GoogLeNet, Inception).

    Returns
    -------
    int
        How many channels it reads, 3 or 1.

    Raises
    ------
    CalexError
        For a network that fails, and for one that gives something else, probabilities too.
    """
    channels, batch = input_channels(model, network, input_size), 2
    for mode in (False, True) if training else (False,):
        _, _, output = _run(model, [], (batch, channels, input_size, input_size), network, mode)
        given = output if mode and isinstance(output, tuple) and output else (output,)
        for logits in given:
            if not isinstance(logits, torch.Tensor):
                raise CalexError(f"network: {network} gives a {type(logits).__name__}, not a tensor of logits (B, classes)")
            if tuple(logits.shape) != (batch, classes):
                raise CalexError(
                    f"network: {network} gives {tuple(logits.shape)} for {batch} images of {classes} classes, not {(batch, classes)}; "
                    "end it in one output a class"
                )
    if own.is_own(network):
        check_logits(model, network, (channels, input_size, input_size))
    return channels


def check_logits(model: nn.Module, network: str, shape: tuple[int, int, int]) -> None:
    """Refuse a network that answers with probabilities: a loss, a temperature and every score here begin from logits."""
    images = torch.randn((PROBES, *shape), generator=torch.Generator().manual_seed(0))
    try:
        _, answers = _pass(_copy(model, "cpu"), [], images, lambda *_: None)
    except Exception as error:  # the network's code: anything can happen
        raise CalexError(f"network: {network} cannot read images of {shape[-1]} px ({one_line(error)}); correct it") from None
    answers = answers.double()
    if (answers >= 0).all() and (answers.sum(1) - 1).abs().max() < 1e-3:
        raise CalexError(
            f"network: {network} answers with probabilities (rows sum to 1, as after a softmax); end it in logits, without the softmax"
        )
