"""Exits that answer for all branches so far: averaged probabilities, or their product (Jazbec et al., NeurIPS 2023)."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from calex.branches.branch import Branches, BranchOutput, Classifier


class Ensembled(Branches):
    """Exit k answers a mean of the first k branches' softmaxes: of the probabilities, or `geometric`, of their logarithms.

    Its C additions an exit are no linear layer: they count as nothing.
    """

    def __init__(self, branches: Iterable[Classifier], combine: str) -> None:
        super().__init__(branches)
        self.combine = combine

    def exit(
        self, k: int, tap: torch.Tensor, before: torch.Tensor | None, confidence: bool = True
    ) -> tuple[BranchOutput, torch.Tensor | None]:
        """Compute the mean at an exit from the sum so far, (B, classes), which the next exit needs."""
        output, _ = super().exit(k, tap, None, confidence)
        if self.combine == "none":
            return output, None
        log_p = output.logits.log_softmax(1)
        total = log_p if self.combine == "geometric" else log_p.exp()
        if before is not None:
            total = total + before
        mean = total / (k + 1)
        return BranchOutput(mean if self.combine == "geometric" else mean.clamp(min=1e-38).log(), output.confidence), total
