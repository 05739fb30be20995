"""Frozen classifiers: building one by name, its weights on disk, its taps and what each stage costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from calex.errors import CalexError, suggestion
from calex.vision import models


def build(network: str, stem: str, classes: int) -> nn.Module:
    """A torchvision classifier with fresh weights and `classes` outputs.

    stem: `imagenet` as published; `cifar` for images of about 32 pixels (ResNets): a 3×3 first convolution
    of stride 1 and no max-pool (He et al. 2016, section 4.2).
    """
    known = models.list_models(module=models)
    if network not in known:
        raise CalexError(f"network: unknown name '{network}', {suggestion(network, known)}")
    model = models.get_model(network, weights=None, num_classes=classes)
    if stem == "cifar":
        if not isinstance(model, models.ResNet):
            raise CalexError(f"stem: 'cifar' fits ResNets, not {network}; use stem: imagenet")
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def freeze(model: nn.Module) -> nn.Module:
    """Evaluation mode (fixed BatchNorm statistics), no gradients."""
    return model.eval().requires_grad_(False)


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Tensors of a .safetensors file, or of a torch file (read with `weights_only`, a bare state dict or one under a usual key)."""
    path = Path(path)
    if not path.is_file():
        raise CalexError(f"{path}: no such checkpoint; check the backbone's `checkpoint` key")
    try:
        safe = path.suffix == ".safetensors"
        content: Any = load_file(path) if safe else torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, RuntimeError, ValueError, EOFError, OSError) as error:
        raise CalexError(
            f"{path}: not a readable checkpoint ({(str(error) or type(error).__name__).splitlines()[0]})"
        ) from None
    except Exception as error:  # pickle's errors have no common base
        raise CalexError(f"{path}: not a checkpoint of plain tensors ({type(error).__name__}); save its state_dict()") from None
    for key in ("state_dict", "model", "model_state_dict", "net"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise CalexError(f"{path}: holds no state dict (name → tensor); save the network's state_dict()")
    return {name.removeprefix("module."): tensor for name, tensor in content.items()}


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], where: str | Path) -> None:
    """Put weights into a network; any tensor that is missing, unknown or of another shape is an error that names it."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    # A counter that only some versions of torch save, and that evaluation mode never reads.
    optional = {name for name in expected if name.endswith("num_batches_tracked")}
    faults = [f"{name} is missing" for name in expected if name not in found and name not in optional]
    faults += [f"{name} is not in the network" for name in found if name not in expected]
    faults += [
        f"{name} is {found[name]}, not {expected[name]}" for name in found if found[name] != expected.get(name, found[name])
    ]
    if faults:
        more = f" and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise CalexError(f"{where}: does not fit the network: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(weights, strict=not optional)


@dataclass(frozen=True)
class Tap:
    """Where a branch reads: a module's output, averaged to at most pool×pool.

    shape: (C, H, W) after the pool. full_shape: before it. flops: what the backbone has spent on one image
    when the tap's output exists.
    """

    name: str
    shape: tuple[int, int, int]
    full_shape: tuple[int, int, int]
    flops: int


def pooled(feature_map: torch.Tensor, pool: int | None) -> torch.Tensor:
    """(B, C, H, W) averaged adaptively to at most pool×pool; as it is when it is smaller or pool is None."""
    if pool is None:
        return feature_map
    height, width = (min(side, pool) for side in feature_map.shape[-2:])
    if (height, width) == tuple(feature_map.shape[-2:]):
        return feature_map
    return nn.functional.adaptive_avg_pool2d(feature_map, (height, width))


def _modules(model: nn.Module, taps: Sequence[str]) -> list[nn.Module]:
    """The modules with these names; an unknown name is an error with the names that exist."""
    known = dict(model.named_modules())
    for tap in taps:
        if not tap or tap not in known:
            children = [name for name, _ in model.named_children()]
            close = suggestion(tap, [name for name in known if name]) if tap else ""
            hint = close if close.startswith("did you mean") else f"the network has: {', '.join(children)} (and their parts)"
            raise CalexError(f"taps: the network has no module '{tap}', {hint}")
    return [known[tap] for tap in taps]


@contextmanager
def tapping(model: nn.Module, taps: Sequence[str], pool: int | None) -> Iterator[list[torch.Tensor]]:
    """Inside the block, each forward pass leaves the pooled outputs of the taps in the yielded list, in order."""
    caught: list[torch.Tensor] = [torch.empty(0)] * len(taps)

    def catcher(position: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            tap = pooled(output, pool)
            # The next module may work in place, and what it overwrites is the tap.
            caught[position] = tap.clone() if tap is output else tap

        return hook

    handles = [module.register_forward_hook(catcher(i)) for i, module in enumerate(_modules(model, taps))]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def measure(model: nn.Module, taps: Sequence[str], input_size: int, pool: int | None) -> tuple[list[Tap], int]:
    """The taps with shapes and cumulative FLOPs of one image, and the whole network's FLOPs.

    Counted by torch on shapes alone (the meta device): convolutions and linear layers, a multiply-add is two.
    """
    if len(set(taps)) < len(taps):
        raise CalexError(f"taps: {', '.join(taps)} names one twice; list each once")
    meta = freeze(copy.deepcopy(model)).to("meta")
    found: list[Tap] = []
    counter = FlopCounterMode(display=False)

    def meter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor) or output.ndim != 4:
                raise CalexError(f"taps: '{name}' gives no feature map (B, C, H, W); tap a convolutional stage")
            shapes = tuple(pooled(output, pool).shape[1:]), tuple(output.shape[1:])
            found.append(Tap(name, *shapes, counter.get_total_flops()))  # type: ignore[arg-type]

        return hook

    for module, name in zip(_modules(meta, taps), taps, strict=True):
        module.register_forward_hook(meter(name))
    with counter, torch.no_grad():
        meta(torch.empty(1, 3, input_size, input_size, device="meta"))
    if [tap.name for tap in found] != list(taps):
        raise CalexError(
            f"taps: the network reaches them as {', '.join(tap.name for tap in found)}; list each once, in that order"
        )
    return found, counter.get_total_flops()


def parameters(model: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
