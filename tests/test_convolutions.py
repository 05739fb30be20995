"""Weight gradients split by images: the same gradients, repeatable, whatever the layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import nn

from calex.backbones import convolutions
from calex.backbones.convolutions import WeightGradientsByImages, by_images

CPU = torch.device("cpu")
LAYERS = {
    "plain": lambda: nn.Conv2d(4, 6, 3, padding=1),
    "strided": lambda: nn.Conv2d(4, 6, 3, stride=2, bias=False),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "pointwise": lambda: nn.Conv2d(4, 6, 1),
    "dilated": lambda: nn.Conv2d(4, 6, 3, dilation=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 2, stride=2),
    "frozen": lambda: nn.Conv2d(4, 6, 3).requires_grad_(False),
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Nothing here needs OpenMP's threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def gradients(layer: nn.Module, images: int, context: Any, dtype: torch.dtype = torch.float32) -> list[torch.Tensor | None]:
    """Of the inputs (B, 4, 9, 9) and of the layer's parameters, for a fixed loss."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(images, 4, 9, 9, generator=generator).contiguous(memory_format=torch.channels_last)
    inputs.requires_grad_()
    layer.zero_grad(set_to_none=True)
    with context:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            output = layer(inputs).float()
        (output * torch.randn(output.shape, generator=generator)).sum().backward()
    return [inputs.grad, *(parameter.grad for parameter in layer.parameters())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("images", [1, 2, 7, 8])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_whole_operator(name: str, images: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = LAYERS[name]()
    whole = gradients(layer, images, nullcontext(), dtype)
    for threads in (2, 3):
        split = gradients(layer, images, WeightGradientsByImages(threads), dtype)
        again = gradients(layer, images, WeightGradientsByImages(threads), dtype)
        for one, two, three in zip(whole, split, again, strict=True):
            assert (one is None) == (two is None) == (three is None)
            if one is not None and two is not None and three is not None:
                size = float(one.abs().max())
                assert torch.allclose(one, two, rtol=0, atol=size * (0.02 if dtype == torch.bfloat16 else 1e-5))
                assert torch.equal(two, three)


def test_each_thread_takes_one_share_and_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(2)
    alone = []
    real = convolutions.total

    def total(parts: Any) -> Any:
        alone.append(len(parts))
        return real(parts)

    monkeypatch.setattr(convolutions, "total", total)
    mode = WeightGradientsByImages(3)
    gradients(LAYERS["plain"](), 8, mode)
    assert alone == [3, 3]  # of the weight and of the bias
    assert set(mode.workers.map(lambda _: torch.get_num_threads(), range(6))) == {1}
    assert torch.get_num_threads() == 2


def test_where_there_are_no_barriers_nothing_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    for device, compute, threads, expected in (
        ("cpu", "bfloat16", 2, WeightGradientsByImages),
        ("cpu", "bfloat16", 1, nullcontext),
        ("cpu", "float32", 2, nullcontext),
        ("cuda", "bfloat16", 2, nullcontext),
    ):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert isinstance(by_images(torch.device(device), compute), expected)


def test_a_compiled_network_trains_inside() -> None:
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    compiled = torch.compile(layer, backend="aot_eager")
    whole = gradients(layer, 6, nullcontext())
    for one, two in zip(whole, gradients(compiled, 6, WeightGradientsByImages(2)), strict=True):
        assert one is not None and two is not None and torch.allclose(one, two, atol=1e-4)
