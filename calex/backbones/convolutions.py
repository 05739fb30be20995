"""Weight gradients of convolutions on a CPU: threads across images instead of inside the operator.

oneDNN computes the weight gradient of a bfloat16 convolution in kernels whose threads meet at many barriers and spin
there. A thread that is not scheduled, because another process has its core, costs a time slice at each of them: beside
one busy process, training on two cores fell to a fortieth. Here every thread computes its share of the images alone, and
they meet once a layer. Shares and the order of the sum follow from the number of threads, so results repeat to the bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def by_images(device: torch.device, compute: str) -> AbstractContextManager[Any]:
    """A context for training steps that splits weight gradients by images where that avoids barriers inside kernels.

    Those of bfloat16 on a CPU with more than one thread. In float32 there is one barrier a layer, on a GPU there is none.
    """
    threads = torch.get_num_threads()
    return WeightGradientsByImages(threads) if (device.type, compute) == ("cpu", "bfloat16") and threads > 1 else nullcontext()


class WeightGradientsByImages(TorchDispatchMode):
    """Inside the block, weight gradients of convolutions are sums over shares of the images, one share a thread.

    The backward pass has to run inside the block too. Gradients of inputs, and all other operators, are left alone.
    """

    def __init__(self, threads: int) -> None:
        super().__init__()
        self.threads = threads
        self.workers = ThreadPoolExecutor(threads, "images", lambda: torch.set_num_threads(1))  # of a worker's operators

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if func is not aten.convolution_backward.default or kwargs or not any(args[-1][1:]) or len(args[1]) < 2:
            return func(*args, **(kwargs or {}))
        gradient, inputs, *options, (of_inputs, of_weight, of_bias) = args
        inputs_gradient = func(gradient, inputs, *options, [True, False, False])[0] if of_inputs else None

        @torch.no_grad()
        def share(images: slice) -> list[torch.Tensor | None]:
            return func(gradient[images], inputs[images], *options, [False, of_weight, of_bias])[1:]

        size = -(-len(inputs) // self.threads)
        shares = self.workers.map(share, [slice(start, start + size) for start in range(0, len(inputs), size)])
        return inputs_gradient, *map(total, zip(*shares, strict=True))


def total(parts: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """The sum of tensors of one shape in their order, added in float32; None if there is none."""
    tensors = [part for part in parts if part is not None]
    if not tensors:
        return None
    result = tensors[0].float()
    for tensor in tensors[1:]:
        result.add_(tensor)
    return result.to(tensors[0].dtype)
