"""What one image costs a module, counted by torch: convolutions and matrix products, a multiply-add is two FLOPs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


@contextmanager
def unfused() -> Iterator[None]:
    """Inside the block, transformers run module by module: their fused path calls no hooks, and no counter knows its price."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """Inside the block, count FLOPs; attention as the matrix products that it is made of, which its fused kernels on a CPU hide."""
    with unfused(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        yield counter


def of(module: nn.Module, *shape: int) -> int:
    """FLOPs of a module on one input of (1, *shape)."""
    with counting() as counter:
        module(torch.empty(1, *shape, device=next(module.parameters()).device))
    return counter.get_total_flops()
