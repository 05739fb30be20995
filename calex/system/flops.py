"""What one image costs a module, counted by torch: convolutions and linear layers, a multiply-add is two FLOPs."""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def of(module: nn.Module, *shape: int) -> int:
    """FLOPs of a module on one input of (1, *shape)."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(torch.empty(1, *shape, device=next(module.parameters()).device))
    return counter.get_total_flops()
