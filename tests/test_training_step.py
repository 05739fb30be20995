"""A step of training: as usual on a CPU, captured and replayed on a GPU, with the same results."""

from __future__ import annotations

import copy

import pytest
import torch

from calex.branches import training_step
from calex.branches.branch import Branch
from calex.features.loader import Batch

HEADS = [
    {"name": "prototype", "prototypes": 4, "temperature": 1.0, "assignment": "softmax", "grid": 1},
    {"name": "separable", "filters": 8, "blocks": 3, "grid": 1, "hidden": 4},
    {"name": "strided", "filters": 8, "blocks": 2},
]


def batches(device: str, sizes: list[int]) -> list[Batch]:
    draw = torch.Generator().manual_seed(0)
    return [
        Batch(
            [torch.randn(size, 6, 8, 8, generator=draw).half().to(device)],
            torch.randn(size, 3, generator=draw).log_softmax(1).to(device),
            torch.randint(3, (size,), generator=draw).to(device),
            torch.arange(size, device=device),
            torch.zeros(size, dtype=torch.int64, device=device),
        )
        for size in sizes
    ]


def loss_of(branch: Branch):
    def loss(batch: Batch) -> torch.Tensor:
        logits, confidence = branch(batch.taps[0].float())
        right = (logits.detach().argmax(1) == batch.labels).float()
        losses = torch.nn.functional.cross_entropy(logits, batch.labels, reduction="none")
        return (losses + torch.nn.functional.binary_cross_entropy_with_logits(confidence, right, reduction="none")).mean()

    return loss


def test_a_cpu_takes_plain_steps() -> None:
    branch = Branch(HEADS[1], (6, 8, 8), 3, shared_core=False)
    assert type(training_step.adamw(list(branch.parameters()), loss_of(branch), 0.01, 0.0, True)) is training_step.Step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head["name"])
def test_replayed_steps_are_those_that_run_one_by_one(head: dict) -> None:
    torch.manual_seed(0)
    plain = Branch(head, (6, 8, 8), 3, shared_core=False).cuda().train()
    replayed = copy.deepcopy(plain)
    usual = training_step.Step(loss_of(plain), torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.01, fused=True))
    graphed = training_step.adamw(list(replayed.parameters()), loss_of(replayed), 0.01, 0.01, True)
    for number, batch in enumerate(batches("cuda", [16] * 7 + [5] + [16] * 6)):  # an epoch's last batch is smaller
        losses = []
        for step in (usual, graphed):
            step.set_rate(0.01 / (1 + number))
            losses.append(float(step(batch)))
        assert losses[0] == pytest.approx(losses[1], rel=1e-3, abs=1e-4), number
    assert isinstance(graphed, training_step.GraphedStep) and graphed.graph is not None
    for (name, one), other in zip(plain.state_dict().items(), replayed.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_loss_that_cannot_be_captured_trains_as_usual() -> None:
    branch = Branch(HEADS[1], (6, 8, 8), 3, shared_core=False).cuda().train()
    inner = loss_of(branch)

    def reads_a_value_back(batch: Batch) -> torch.Tensor:
        loss = inner(batch)
        return loss * (1.0 if float(loss.detach()) > -1 else 2.0)

    step = training_step.adamw(list(branch.parameters()), reads_a_value_back, 0.01, 0.0, True)
    losses = [float(step(batch)) for batch in batches("cuda", [16] * 30)]
    assert isinstance(step, training_step.GraphedStep) and not step.possible
    assert all(torch.isfinite(torch.tensor(losses)))
