"""The linear layer that a network ends in: found by what it gives, not by its name."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from calex.backbones.build import uncompiled
from calex.errors import CalexError, one_line, suggestion


@dataclass(frozen=True)
class LastLayer:
    """Names of linear layers. name: the one whose outputs are the logits. auxiliary: those of as many outputs that only training asks."""

    name: str
    auxiliary: list[str]


def find(model: nn.Module, network: str, shape: tuple[int, int, int], declared: str | None = None) -> LastLayer:
    """Find the last linear layer: the one whose outputs are the network's logits.

    Parameters
    ----------
    model : torch.nn.Module
        The network; it is copied, and stays as it is.
    network : str
        What errors call it.
    shape : tuple of int
        (channels, height, width) of the images that it reads.
    declared : str, optional
        The name that the config gives; then nothing is searched, and it has to be a linear layer of one output a class.

    Raises
    ------
    CalexError
        For a network that does not end in a linear layer, and for a declared name that is none.
    """
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear) and name}
    given, logits = _outputs(model, network, linear, shape)
    if declared is not None:
        if declared not in linear:
            raise CalexError(f"last_layer: {network} has no linear layer '{declared}', {suggestion(declared, linear)}")
        if declared not in given or given[declared].shape != logits.shape:
            raise CalexError(
                f"last_layer: '{declared}' of {network} does not give one output a class; name the layer that does"
            )
        name: str | None = declared
    else:
        # The softmax is compared, because a network may end in log-softmax.
        answer = logits.log_softmax(1)
        ends = [
            name
            for name, output in given.items()
            if output.shape == logits.shape and torch.allclose(output.log_softmax(1), answer, rtol=1e-4, atol=1e-5)
        ]
        name = ends[-1] if ends else None
    if name is None:
        raise CalexError(
            f"head: {network} does not end in a linear layer (its linear layers: {', '.join([*linear][-3:]) or 'none'}); "
            "name the one that gives one output a class in `last_layer`, or take another network"
        )
    if f"{name}.weight" not in dict(model.named_parameters()):
        raise CalexError(f"head: the weights of '{name}' of {network} are computed from others (a parametrisation); remove it")
    # Of attention the projection is no layer that is called, and its kind is another.
    unasked = [one for one, layer in linear.items() if one not in given and type(layer) is nn.Linear]
    return LastLayer(name, [one for one in unasked if linear[one].out_features == logits.shape[1]])


def _outputs(
    model: nn.Module, network: str, linear: dict[str, nn.Linear], shape: tuple[int, int, int]
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """What linear layers give in a pass of a few made-up images, in its order, and the network's logits (B, classes)."""
    model = copy.deepcopy(model).cpu().eval()
    given: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            given.pop(name, None)  # the last time counts
            given[name] = output

        return hook

    for name, module in model.named_modules():
        if name in linear:
            module.register_forward_hook(keep(name))
    images = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0))
    try:
        with uncompiled(), torch.no_grad():
            logits = model(images)
    except Exception as error:  # the network's code: anything can happen
        raise CalexError(f"network: {network} cannot read images of {shape[-1]} px ({one_line(error)}); correct it") from None
    return given, logits
