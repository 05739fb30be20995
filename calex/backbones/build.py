"""Building a classifier by name: torchvision's, or a function of the user's."""

from __future__ import annotations

import copy
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.optim.swa_utils import AveragedModel

from calex.backbones import own
from calex.backbones.vision import models
from calex.errors import CalexError, one_line, suggestion

# As published; torchvision warns where this is left open.
PUBLISHED = {"googlenet": {"init_weights": True}, "inception_v3": {"init_weights": True}}

# Modules that only say how the network inside them is run: `module` is that network.
CONTAINERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


STRIDES = {"cifar": 1, "small": 2}  # of the first convolution


# Networks that are built for images of one size, and what torchvision calls it.
SIZED: dict[str, Callable[[int], dict[str, Any]]] = {
    "vit_": lambda size: {"image_size": size},
    "maxvit_": lambda size: {"input_size": (size, size)},
}


def build(network: str, stem: str, classes: int, size: int | None = None) -> nn.Module:
    """Make a classifier with fresh weights.

    Parameters
    ----------
    network : str
        torchvision's by name, or a function of the user's, ``package.module:function``.
    stem : str
        ``imagenet`` as published; ``cifar`` for images of about 32 pixels (ResNets): a 3×3 first convolution of stride 1
        and no max-pool (He et al. 2016, section 4.2); ``small`` the same with stride 2, for a quarter of the work.
    classes : int
        How many outputs it has.
    size : int, optional
        Side of the images that it will read, for those of torchvision that are built for one size (ViT, MaxViT); as
        published where it is not given.

    Returns
    -------
    torch.nn.Module
        (B, channels, H, W) float32 → logits (B, classes), without wrappers such as torch.compile's.

    Raises
    ------
    CalexError
        For an unknown name, and for a function that fails or gives something else.
    """
    model = _own(network, classes) if own.is_own(network) else _published(network, classes, size)
    if stem != "imagenet":
        if not isinstance(model, models.ResNet):
            raise CalexError(f"stem: '{stem}' fits ResNets, not {network}; use stem: imagenet")
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, stride=STRIDES[stem], padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _published(network: str, classes: int, size: int | None) -> nn.Module:
    known = models.list_models(module=models)
    if network in known:
        sized = next((sized for start, sized in SIZED.items() if network.startswith(start)), None)
        more = PUBLISHED.get(network, {}) | (sized(size) if sized and size else {})
        try:
            return models.get_model(network, weights=None, num_classes=classes, **more)
        except (AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:  # of a size that patches do not divide
            if not sized:
                raise
            raise CalexError(
                f"network: {network} cannot be built for images of {size} px ({one_line(error)}); set another input_size"
            ) from None
    if network in models.list_models():
        kind = models.get_model_builder(network).__module__.split(".")[2].replace("_", " ")
        near = suggestion(network.removeprefix("quantized_"), known)
        remedy = near if near.startswith("did you mean") else "choose a classifier, such as resnet18"
        raise CalexError(
            f"network: '{network}' is a torchvision model for {kind}, not a classifier in floating point; {remedy}"
        )
    raise CalexError(f"network: unknown name '{network}', {suggestion(network, known)}")


def _own(network: str, classes: int) -> nn.Module:
    function = own.load(network)
    try:
        model = function(classes)
    except Exception as error:  # the user's code: anything can happen
        raise CalexError(
            f"network: {network} fails when it is called with the number of classes, {classes} ({one_line(error)}); correct it"
        ) from None
    if not isinstance(model, nn.Module):
        raise CalexError(f"network: {network} gives a {type(model).__name__}, not a torch.nn.Module; return the network")
    if not isinstance(model, torch.jit.ScriptModule):
        model = unwrapped(model)
    if (fault := unusable(model)) is not None:
        raise CalexError(f"network: {network} {fault}")
    return model


def unusable(model: nn.Module) -> str | None:
    """Why a module cannot be looked into, copied, trained and saved as others can, and what to do; None if it can."""
    if isinstance(model, torch.jit.ScriptModule):
        return "gives a TorchScript program, whose modules cannot be tapped; return the network that it was made of"
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            return f"has no weights in {name} before images have passed (a lazy module); give that module its sizes"
        if tensor.is_meta:
            return f"has no data in {name} (the meta device); build it on the CPU"
        if isinstance(tensor, nn.Parameter) and tensor.dtype in (torch.float16, torch.bfloat16, torch.float64):
            return f"has {name} in {str(tensor.dtype).removeprefix('torch.')}; return it in float32, `.float()`, the config chooses the rest"
    try:
        copy.deepcopy(model)
    except Exception as error:  # the user's code: anything can happen
        return f"cannot be copied ({one_line(error)}); correct it"
    return None


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network without torch.compile, data parallelism and averaging, at any depth.

    They say how a network is run, which is decided here, and they put words into the names of its modules and weights.
    """
    while (inner := model.module if isinstance(model, CONTAINERS) else model._modules.get("_orig_mod")) is not None:
        model = inner
    for name, child in list(model._modules.items()):
        if child is not None and (bare := unwrapped(child)) is not child:
            setattr(model, name, bare)
    model._compiled_call_impl = None  # what `module.compile()` leaves
    for name, value in list(vars(model).items()):  # `self.forward = torch.compile(self.forward)`
        if (written := getattr(value, "_torchdynamo_orig_callable", None)) is not None:
            setattr(model, name, written)
    return model


@contextmanager
def uncompiled() -> Iterator[None]:
    """Inside the block, functions that torch.compile made run as they were written: then hooks of their modules are called."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and the import takes a second
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def copied(model: nn.Module) -> nn.Module:
    """Copy a network that the user gave, out of its wrappers, so that the user's own stays as it is."""
    if (fault := unusable(model)) is not None:
        raise CalexError(f"network: {type(model).__name__} {fault}")
    return unwrapped(copy.deepcopy(model))


def freeze(model: nn.Module) -> nn.Module:
    """Set evaluation mode (fixed BatchNorm statistics), no gradients."""
    return model.eval().requires_grad_(False)


def parameters(model: nn.Module) -> int:
    """Count the numbers that the network's parameters are."""
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
