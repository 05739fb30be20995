"""The head of depthwise-separable convolutions: FLOPs by hand, plain loops, odd maps."""

from __future__ import annotations

import math

import pytest
import torch

from calex.branches.branch import Branch
from calex.plugins import load
from calex.system import flops

torch.set_num_threads(1)


def core(channels: int, height: int, width: int, filters: int = 4, blocks: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return load("heads", "separable").build(channels, height, width, filters=filters, blocks=blocks, grid=1, hidden=0)


def test_flops_by_hand() -> None:
    # 64×8×8 to 4×4: depthwise 2·9·64·16 = 18,432, 1×1 2·64·256·16 = 524,288. To 2×2: 2·9·256·4 = 18,432, 2·256·256·4 = 524,288.
    assert flops.of(core(64, 8, 8, 256).eval(), 64, 8, 8) == 18_432 + 524_288 + 18_432 + 524_288
    head = {"name": "separable", "filters": 256, "blocks": 2, "grid": 1, "hidden": 0}
    # The linear layer reads mean and maximum of 256 channels: 2·512·10.
    assert Branch(head, (64, 8, 8), 10, shared_core=True).flops()[0] == 1_085_440 + 10_240


@pytest.mark.parametrize(
    ("channels", "height", "width", "maps"),
    [(3, 3, 5, [(2, 3), (1, 2)]), (7, 1, 1, [(1, 1), (1, 1)]), (2048, 2, 2, [(1, 1), (1, 1)])],
)
def test_flops_of_odd_maps(channels: int, height: int, width: int, maps: list[tuple[int, int]]) -> None:
    wide = [channels, 4]
    expected = sum(2 * 9 * c * h * w + 2 * c * 4 * h * w for c, (h, w) in zip(wide, maps, strict=True))
    module = core(channels, height, width).eval()
    assert flops.of(module, channels, height, width) == expected
    assert module(torch.randn(2, channels, height, width)).shape == (2, module.width)


def test_it_equals_plain_loops() -> None:
    module = core(2, 3, 5, filters=3, blocks=1).eval()
    depthwise, mixing = (part for part in module if isinstance(part, torch.nn.Conv2d))
    image = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1))
    norm = math.sqrt(1 + 1e-5)  # fresh BatchNorm statistics: mean 0, variance 1
    places = []
    for top in (0, 2):
        for left in (0, 2, 4):
            seen = []
            for channel in range(2):
                total = sum(
                    float(depthwise.weight[channel, 0, i, j].detach() * image[channel, top + i - 1, left + j - 1])
                    for i in range(3)
                    for j in range(3)
                    if 0 <= top + i - 1 < 3 and 0 <= left + j - 1 < 5
                )
                seen.append(max(total / norm, 0.0))
            places.append(
                [
                    max(sum(float(w.detach()) * s for w, s in zip(mixing.weight[m, :, 0, 0], seen, strict=True)) / norm, 0.0)
                    for m in range(3)
                ]
            )
    expected = [sum(place[m] for place in places) / len(places) for m in range(3)] + [
        max(place[m] for place in places) for m in range(3)
    ]
    with torch.no_grad():
        torch.testing.assert_close(module(image[None])[0], torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_a_neighbour_is_seen() -> None:
    """What a 1×1 convolution cannot do: the same pixels in another order give another answer."""
    module = core(6, 4, 4).eval()
    image = torch.randn(1, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        assert not torch.allclose(module(image), module(image.flatten(2)[:, :, order].reshape(image.shape)), atol=1e-4)
