"""A fused stage computes what its modules compute one by one."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from calex.deploy.fusing import FusedConvolution, fuse


class Small(nn.Module):
    """A convolution, and what a test does with its output and with another map of the same shape."""

    def __init__(self, after: Callable[[Small, Tensor, Tensor], Tensor], **how: object) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 4, 3, **{"padding": 1, **how})  # type: ignore[arg-type]
        self.norm, self.act, self.after = nn.BatchNorm2d(4), nn.ReLU(inplace=True), after
        self.relu6, self.silu, self.hardswish = nn.ReLU6(), nn.SiLU(), nn.Hardswish()

    def forward(self, x: Tensor) -> Tensor:
        """Compute it."""
        return self.after(self, self.convolution(x), x)


def into(of: Small, y: Tensor, x: Tensor) -> Tensor:
    y = of.norm(y)
    y += x
    return of.act(y)


def sum_read_twice(of: Small, y: Tensor, x: Tensor) -> Tensor:
    z = x * 1
    z += y
    return of.act(z) + z


def read_twice(of: Small, y: Tensor, x: Tensor) -> Tensor:
    return of.act(y + x) + y


# What follows the convolution, and into how many nodes of its graph a fused convolution may have taken more than itself.
CASES = {
    "relu": (lambda of, y, x: of.act(y), 1),
    "function": (lambda of, y, x: torch.relu(y), 1),
    "method": (lambda of, y, x: y.relu(), 1),
    "norm and relu6": (lambda of, y, x: of.relu6(of.norm(y)), 1),
    "silu": (lambda of, y, x: of.silu(y), 1),
    "hardswish": (lambda of, y, x: of.hardswish(of.norm(y)), 1),
    "added": (lambda of, y, x: x + of.norm(y), 1),
    "added, relu": (lambda of, y, x: of.act(of.norm(y) + x), 1),
    "added in place": (into, 1),
    "one value a channel added": (lambda of, y, x: of.act(of.norm(y) + x.mean((2, 3), keepdim=True)), 1),
    "one image's map added": (lambda of, y, x: of.act(y + x[:1]), 1),
    "a map that is larger when it is read": (lambda of, y, x: of.act(y.mean((2, 3), keepdim=True) + x), 0),
    "twice itself": (lambda of, y, x: of.act(y + y), 0),
    "a number": (lambda of, y, x: of.act(y + 1.0), 0),
    "sum read twice": (sum_read_twice, 1),
    "read twice": (read_twice, 0),
}


@pytest.mark.parametrize(
    "how", [{}, {"groups": 4}, {"bias": False, "dilation": 2, "padding": 2}], ids=["plain", "groups", "dilated"]
)
@pytest.mark.parametrize("case", CASES)
@torch.inference_mode()
def test_what_a_fused_convolution_computes(case: str, how: dict[str, object]) -> None:
    after, fused = CASES[case]
    torch.manual_seed(0)
    model = Small(after, **how).eval()
    model.norm.running_mean.normal_()  # type: ignore[union-attr]
    model.norm.running_var.uniform_(0.5, 2)  # type: ignore[union-attr]
    graph, x = fx.symbolic_trace(copy.deepcopy(model)), 3 * torch.randn(5, 4, 6, 6)
    assert fuse(graph) == fused
    assert sum(isinstance(module, FusedConvolution) for module in graph.modules()) == 1
    torch.testing.assert_close(graph(x.clone()), model(x.clone()), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(copy.deepcopy(graph)(x[:1].clone()), model(x[:1].clone()), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_single_images_of_several_shapes_in_turn() -> None:
    """The weights are put in order for one shape, and again for the next."""
    model = Small(CASES["added, relu"][0]).eval()
    graph = fx.symbolic_trace(copy.deepcopy(model))
    fuse(graph)
    for images, side in ((1, 6), (1, 9), (3, 9), (1, 6), (1, 1)):
        x = torch.randn(images, 4, side, side).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(graph(x.clone()), model(x.clone()), atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_other_precisions_and_paddings_are_computed_as_usual() -> None:
    model = Small(CASES["added, relu"][0]).eval()
    graph, x = fx.symbolic_trace(model), torch.randn(2, 4, 6, 6)
    fuse(graph)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(graph(x).float(), model(x).float(), atol=0.05, rtol=0.05)
    double = fx.symbolic_trace(model.double())
    fuse(double)
    torch.testing.assert_close(double(x.double()), model(x.double()))
    circular = fx.symbolic_trace(Small(CASES["relu"][0], padding_mode="circular"))
    assert fuse(circular) == 0
