"""Convolutions in the form in which a CPU learns them fastest: equal to torch's own, with their gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calex.heads._convolutions import Depthwise, Pointwise

MAPS = [(1, 1), (1, 2), (2, 1), (2, 2), (1, 3), (3, 5), (8, 8)]


def compared(ours: nn.Conv2d, theirs: nn.Conv2d, feature_map: torch.Tensor) -> None:
    """Hold answers and every gradient against those of a convolution with the same weights."""
    theirs.load_state_dict(ours.state_dict())
    results = []
    for module in (ours.double().train(), theirs.double().train()):
        inputs = feature_map.clone().requires_grad_()
        output = module(inputs)
        (output * torch.arange(output.numel()).reshape(output.shape).cos()).sum().backward()
        assert inputs.grad is not None and module.weight.grad is not None
        results.append((output, inputs.grad, module.weight.grad))
    for mine, other in zip(*results, strict=True):
        assert mine.shape == other.shape
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(("height", "width"), MAPS)
@pytest.mark.parametrize("channels", [1, 3, 64])
def test_both_equal_torchs_convolutions(channels: int, height: int, width: int) -> None:
    torch.manual_seed(0)
    feature_map = torch.randn(3, channels, height, width, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    compared(Pointwise(channels, 5), nn.Conv2d(channels, 5, 1, bias=False), feature_map)
    compared(
        Depthwise(channels), nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False), feature_map
    )


def test_a_network_that_answers_keeps_the_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(F, "conv2d", lambda *arguments: called.append(arguments[0].shape))
    Depthwise(4).eval()(torch.randn(1, 4, 2, 2))
    Pointwise(4, 5).eval()(torch.randn(1, 4, 2, 2))
    assert called == [(1, 4, 2, 2)] * 2
