"""Frozen classifiers: building one by name, its weights on disk, its taps and what each stage costs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from calex import networks
from calex.errors import CalexError, suggestion
from calex.files import read_record
from calex.vision import models

# What other steps read of backbone.json and taps.json, as JSON schemas.
_TEXT, _COUNT = {"type": "string"}, {"type": "integer", "minimum": 0}
_THREE = {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 3}


def _object(**properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


ABOUT = _object(
    network=_TEXT, stem=_TEXT, classes=_COUNT, dataset=_TEXT, fingerprint=_TEXT,
    transform=_object(size=_COUNT, mean=_THREE, std=_THREE), augment=_object(shift=_COUNT, flip={"type": "boolean"}),
    head_holdout={"type": "number"},
)  # fmt: skip
MEASURED = _object(
    network=_TEXT, stem=_TEXT, input_size=_COUNT, flops=_COUNT, pool={"type": ["integer", "null"], "minimum": 1},
    taps={
        "type": "array",
        "minItems": 1,
        "items": _object(name=_TEXT, flops=_COUNT, shape=_THREE | {"items": _COUNT}),
    },
)  # fmt: skip


def read_about(weights: str | Path) -> dict[str, Any]:
    """The backbone.json beside its weights."""
    return read_record(Path(weights).with_suffix(".json"), ABOUT, "train-backbone")


def read_measured(path: str | Path) -> dict[str, Any]:
    """A taps.json."""
    return read_record(path, MEASURED, "measure-taps")


# As published; torchvision warns unless this is said.
SAID = {"googlenet": {"init_weights": True}, "inception_v3": {"init_weights": True}}


def build(network: str, stem: str, classes: int) -> nn.Module:
    """A classifier with fresh weights and `classes` outputs: torchvision's by name, or your own `package.module:function`.

    stem: `imagenet` as published; `cifar` for images of about 32 pixels (ResNets): a 3×3 first convolution
    of stride 1 and no max-pool (He et al. 2016, section 4.2).
    """
    model = _own(network, classes) if networks.is_own(network) else _published(network, classes)
    if stem == "cifar":
        if not isinstance(model, models.ResNet):
            raise CalexError(f"stem: 'cifar' fits ResNets, not {network}; use stem: imagenet")
        model.conv1 = nn.Conv2d(3, model.conv1.out_channels, 3, stride=1, padding=1, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
        model.maxpool = nn.Identity()
    return model


def _published(network: str, classes: int) -> nn.Module:
    known = models.list_models(module=models)
    if network in known:
        return models.get_model(network, weights=None, num_classes=classes, **SAID.get(network, {}))
    if network in models.list_models():
        kind = models.get_model_builder(network).__module__.split(".")[2].replace("_", " ")
        near = suggestion(network.removeprefix("quantized_"), known)
        remedy = near if near.startswith("did you mean") else "choose a classifier, such as resnet18"
        raise CalexError(
            f"network: '{network}' is a torchvision model for {kind}, not a classifier in floating point; {remedy}"
        )
    raise CalexError(f"network: unknown name '{network}', {suggestion(network, known)}")


def _own(network: str, classes: int) -> nn.Module:
    function = networks.function(network)
    try:
        model = function(classes)
    except Exception as error:  # the user's code: anything can happen
        raise CalexError(
            f"network: {network} fails when it is called with the number of classes, {classes} ({networks.said(error)}); mend it"
        ) from None
    if not isinstance(model, nn.Module):
        raise CalexError(f"network: {network} gives a {type(model).__name__}, not a torch.nn.Module; return the network")
    return model


# What torch's data-parallel wrappers and torch.compile put before every name.
WRAPPERS = ("module.", "_orig_mod.")


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
    for prefix in WRAPPERS * 2:  # either may be around the other
        if content and all(name.startswith(prefix) for name in content):
            content = {name.removeprefix(prefix): tensor for name, tensor in content.items()}
    return content


def load_weights(model: nn.Module, weights: dict[str, torch.Tensor], where: str | Path) -> None:
    """Put weights into a network; a tensor that is missing, unknown, of another shape or not finite is an error that names it."""
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
        misfits = [name for name in found if name in expected and found[name] != expected[name]]
        outputs = {(found[name][0], expected[name][0]) for name in misfits if found[name][1:] == expected[name][1:]}
        remedy = ""
        if len(misfits) == len(faults) and len(outputs) == 1:  # all of it fits but the head
            there, here = outputs.pop()
            remedy = f"; it tells {there} classes apart and the dataset has {here}: fine-tune it on the dataset first"
        raise CalexError(f"{where}: does not fit the network: {'; '.join(faults[:3])}{more}{remedy}")
    strange = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if strange is not None:
        raise CalexError(f"{where}: {strange} holds values that are not finite; bring another checkpoint")
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
def tapping(
    model: nn.Module, taps: Sequence[str], pool: int | None, dtype: torch.dtype | None = None
) -> Iterator[list[torch.Tensor]]:
    """Inside the block, each forward pass leaves the pooled outputs of the taps in the yielded list, in order.

    dtype: what they are left in; None as they are computed.
    """
    caught: list[torch.Tensor] = [torch.empty(0)] * len(taps)

    def catcher(position: int) -> Any:
        def hook(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
            tap = pooled(output, pool)
            # The next module may work in place, and what it overwrites is the tap.
            caught[position] = tap.to(dtype or tap.dtype, copy=tap is output)

        return hook

    handles = [module.register_forward_hook(catcher(i)) for i, module in enumerate(_modules(model, taps))]
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Passed:
    """One time that a module gave its output, in a forward pass of one image.

    shape: (C, H, W). fault: why that is nothing to tap, or None. flops: what the network had spent by then.
    """

    name: str
    shape: tuple[int, ...]
    fault: str | None
    flops: int


def trace(model: nn.Module, modules: Sequence[str], input_size: int, network: str | None = None) -> tuple[list[Passed], int]:
    """What the named modules give, in that order, and the FLOPs of the whole network, for one image.

    Counted by torch on shapes alone (the meta device): convolutions and linear layers, a multiply-add is two. Maps
    with their channels last are told by a second pass, of two images of twice the size, in which channels stay as many;
    where the network reads one size only, by not being square. `network` is what errors call it.
    """
    once, flops, _ = _run(model, modules, 1, input_size, network or type(model).__name__)
    twice: dict[str, tuple[int, ...]] = {}
    with suppress(Exception):  # as far as it comes
        _pass(_copy(model, "meta"), modules, 2, 2 * input_size, lambda name, shape, _: twice.update({name: shape}))
    return [Passed(name, shape[1:], _fault(shape, twice.get(name)), spent) for name, shape, spent in once], flops


def _fault(shape: tuple[int, ...], twice: tuple[int, ...] | None) -> str | None:
    """Why an output of one image is no map (B, C, H, W); `twice` is its shape for two images of twice the size."""
    if len(shape) != 4 or shape[0] != 1 or (twice is not None and (len(twice) != 4 or twice[0] != 2)):
        return "gives no feature map (B, C, H, W)"
    if (twice is None and shape[2] != shape[3]) or (twice is not None and twice[1] != shape[1]):
        return f"gives {shape[1:]}, which has its channels last and not as (B, C, H, W)"
    return None


def _copy(model: nn.Module, device: str, training: bool = False) -> nn.Module:
    return copy.deepcopy(model).requires_grad_(False).train(training).to(device)


def _pass(model: nn.Module, modules: Sequence[str], batch: int, size: int, meet: Any) -> tuple[int, Any]:
    """FLOPs and output of a forward pass; `meet` is told of each output of the modules: name, shape, FLOPs so far."""
    counter = FlopCounterMode(display=False)

    def meter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            meet(name, tuple(output.shape) if isinstance(output, torch.Tensor) else (), counter.get_total_flops())

        return hook

    for module, name in zip(_modules(model, modules), modules, strict=True):
        module.register_forward_hook(meter(name))
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    with counter, torch.no_grad():
        output = model(torch.zeros(batch, 3, size, size, device=device))
    return counter.get_total_flops(), output


def _run(
    model: nn.Module, modules: Sequence[str], batch: int, size: int, network: str, training: bool = False
) -> tuple[list[tuple[str, tuple[int, ...], int]], int, Any]:
    """A pass that has to succeed: on shapes alone, or for real where code of the user's makes tensors of its own."""
    failure = ""
    for device in ("meta", "cpu"):
        met: list[tuple[str, tuple[int, ...], int]] = []
        try:
            return met, *_pass(_copy(model, device, training), modules, batch, size, lambda *what: met.append(what))  # noqa: B023
        except CalexError:
            raise
        except Exception as error:  # the network's code: anything can happen
            failure = networks.said(error)
    remedy = "mend it or set another input_size" if networks.is_own(network) else "set another input_size or network"
    raise CalexError(
        f"network: {network} cannot {'train on' if training else 'read'} images of {size} px ({failure}); {remedy}"
    )


def check(model: nn.Module, network: str, input_size: int, classes: int, training: bool = False) -> None:
    """See that a network reads images of this size and answers with logits; `network` is what errors call it.

    For training, auxiliary logits may follow the first (GoogLeNet, Inception).
    """
    batch = 2
    for mode in (False, True) if training else (False,):
        _, _, output = _run(model, [], batch, input_size, network, mode)
        given = output if mode and isinstance(output, tuple) and output else (output,)
        for logits in given:
            if not isinstance(logits, torch.Tensor):
                raise CalexError(f"network: {network} gives a {type(logits).__name__}, not a tensor of logits (B, classes)")
            if tuple(logits.shape) != (batch, classes):
                raise CalexError(
                    f"network: {network} gives {tuple(logits.shape)} for {batch} images of {classes} classes, not {(batch, classes)}; "
                    "end it in one output a class"
                )


def measure(
    model: nn.Module, taps: Sequence[str], input_size: int, pool: int | None, network: str | None = None
) -> tuple[list[Tap], int]:
    """The taps with shapes and cumulative FLOPs of one image, and the whole network's FLOPs.

    Raises CalexError for a tap that is no map (B, C, H, W), is not reached exactly once, or is out of order.
    """
    if len(set(taps)) < len(taps):
        raise CalexError(f"taps: {', '.join(taps)} names one twice; list each once")
    passed, flops = trace(model, taps, input_size, network)
    order = [tap.name for tap in passed]
    for name in taps:
        times = order.count(name)
        if times != 1:
            said = "is never reached" if times == 0 else f"is reached {times} times"
            raise CalexError(f"taps: '{name}' {said} in a forward pass; tap a module that gives one map")
    for tap in passed:
        if tap.fault:
            raise CalexError(f"taps: '{tap.name}' {tap.fault}; `python -m calex taps` lists what can be tapped")
    if order != list(taps):
        raise CalexError(f"taps: the network reaches them as {', '.join(order)}; list them in that order")
    return [Tap(tap.name, pooled_shape(tap.shape, pool), tap.shape, tap.flops) for tap in passed], flops  # type: ignore[arg-type]


def parameters(model: nn.Module) -> int:
    return sum(math.prod(parameter.shape) for parameter in model.parameters())
