"""One step of training: loss, gradients, weights. On a GPU it is captured once as a CUDA graph and replayed.

A head's step is some hundred small kernels, and to launch them one by one takes longer than to run them. A replay computes
what the same kernels would have computed one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

WARM_UP = 3  # steps before a capture, in which libraries allocate what they need


class Step:
    """Trains on one batch after the other."""

    def __init__(self, loss_of: Callable[[Any], torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        """loss_of: from a batch to a scalar."""
        self.loss_of, self.optimizer = loss_of, optimizer

    def set_rate(self, rate: float) -> None:
        """Use a learning rate from here on."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def __call__(self, batch: Any) -> torch.Tensor:
        """Change the weights; gives the loss before the change, a scalar."""
        loss = self.loss_of(batch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


class GraphedStep(Step):
    """A step that is replayed for batches as large as the first one; others, such as an epoch's last, run as usual.

    The optimizer must be capturable, with a learning rate that is a tensor on the GPU. `loss_of` must do the same for every
    batch: a graph holds what it did for one. If it does what a graph cannot hold, such as reading a value back, every step
    runs as usual.
    """

    def __init__(self, loss_of: Callable[[Any], torch.Tensor], optimizer: torch.optim.Optimizer) -> None:
        super().__init__(loss_of, optimizer)
        self.stream = torch.cuda.Stream()
        self.size, self.steps, self.possible = 0, 0, True
        self.graph: torch.cuda.CUDAGraph | None = None

    def set_rate(self, rate: float) -> None:
        """Use a learning rate from here on, in the graph too."""
        for group in self.optimizer.param_groups:
            group["lr"].fill_(rate)

    def __call__(self, batch: Any) -> torch.Tensor:
        """Change the weights; gives the loss before the change, a scalar."""
        self.size = self.size or len(batch)
        if len(batch) != self.size or not self.possible:
            return super().__call__(batch)
        if self.steps < WARM_UP:
            self.steps += 1
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = super().__call__(batch)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if self.graph is None:
            try:
                self.capture(batch)
            except RuntimeError:  # this loss cannot be captured
                self.graph, self.possible = None, False
                return super().__call__(batch)
        for room, part in zip(tensors(self.batch), tensors(batch), strict=True):
            room.copy_(part)
        assert self.graph is not None
        self.graph.replay()
        return self.loss.clone()

    def capture(self, batch: Any) -> None:
        """Record a step on a batch of its own, without running it."""
        self.batch = replace(
            batch, taps=[tap.clone() for tap in batch.taps], log_softmax=batch.log_softmax.clone(), labels=batch.labels.clone(),
            position=batch.position.clone(), view=batch.view.clone(),
        )  # fmt: skip
        graph = torch.cuda.CUDAGraph()
        self.optimizer.zero_grad(set_to_none=True)
        with torch.cuda.graph(graph):
            loss = self.loss_of(self.batch)
            loss.backward()
            self.optimizer.step()
        self.graph, self.loss = graph, loss.detach()


def tensors(batch: Any) -> list[torch.Tensor]:
    """List what a batch holds."""
    return [*batch.taps, batch.log_softmax, batch.labels, batch.position, batch.view]


def adamw(
    parameters: list[torch.nn.Parameter],
    loss_of: Callable[[Any], torch.Tensor],
    learning_rate: float,
    weight_decay: float,
    steady: bool,
) -> Step:
    """Build a step of AdamW for parameters on one device; `steady` as in `calex.branches.fitting.fit`."""
    device = parameters[0].device
    if device.type != "cuda" or not steady:
        return Step(loss_of, torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=weight_decay, fused=True))
    rate = torch.tensor(learning_rate, device=device)
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=weight_decay, fused=True, capturable=True)
    return GraphedStep(loss_of, optimizer)
