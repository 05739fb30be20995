"""What a branch learns: each target's loss beside its formula, and the gradient that follows from it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from calex.branches.fitting import TrainingJob, depth_of
from calex.errors import CalexError
from calex.plugins import complete, constants, load, names, options_of

torch.set_num_threads(1)

logit = st.floats(-8, 8, width=32)
temperatures = st.sampled_from([0.5, 1.0, 4.0, 20.0])


@st.composite
def batches(draw: st.DrawFn) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student logits (B, C), the backbone's log-softmax (B, C), labels (B,), in float64 to compare with formulas."""
    count, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    table = st.lists(st.lists(logit, min_size=classes, max_size=classes), min_size=count, max_size=count)
    student, teacher = (torch.tensor(draw(table), dtype=torch.float64) for _ in range(2))
    labels = torch.tensor(draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)))
    return student, teacher.log_softmax(1), labels


def softmax_by_hand(logits: list[float], temperature: float) -> list[float]:
    exponents = [math.exp(z / temperature) for z in logits]
    return [e / sum(exponents) for e in exponents]


def kl_by_hand(teacher: list[float], student: list[float], temperature: float) -> float:
    p, q = softmax_by_hand(teacher, temperature), softmax_by_hand(student, temperature)
    return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def losses(name: str, batch: tuple[torch.Tensor, torch.Tensor, torch.Tensor], **options: float) -> torch.Tensor:
    depth = {"depth": options.pop("depth", 0.25)} if constants("targets", name).get("DEPTH") else {}
    block = complete("targets", {"name": name, **options}, "methods.m.target")
    return load("targets", name).losses(*batch, **depth, **options_of(block))


@given(batches(), temperatures)
def test_distillation_equals_the_formula(batch, temperature):
    student, log_softmax, _ = batch
    found = losses("kl", batch, temperature=temperature)
    expected = [kl_by_hand(z, f, temperature) for z, f in zip(log_softmax.tolist(), student.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert (found >= -1e-12).all()


def test_distillation_by_hand():
    # At T = 1: teacher (3/4, 1/4), student (1/2, 1/2): ¾ log 3/2 + ¼ log 1/2 = 0.130812.
    teacher = torch.tensor([[math.log(3.0), 0.0]], dtype=torch.float64).log_softmax(1)
    student = torch.zeros(1, 2, dtype=torch.float64)
    assert losses("kl", (student, teacher, torch.tensor([0])), temperature=1.0).item() == pytest.approx(0.1308120)
    # At T = 2 the teacher is (√3, 1) / (√3 + 1) = (0.633975, 0.366025), and the loss is 4 times the divergence:
    # 4·(0.633975·log 1.267949 + 0.366025·log 0.732051) = 4·(0.1505061 − 0.1141653)
    assert losses("kl", (student, teacher, torch.tensor([0])), temperature=2.0).item() == pytest.approx(0.1453631, abs=1e-6)


def test_the_default_temperature_is_one():
    batch = (torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[3.0, 0.0, 1.0]]).log_softmax(1), torch.tensor([0]))
    torch.testing.assert_close(losses("kl", batch), losses("kl", batch, temperature=1.0))


@given(batches(), temperatures, st.floats(-5, 5))
def test_distillation_is_zero_only_where_the_student_is_the_teacher(batch, temperature, constant):
    _, log_softmax, labels = batch
    found = losses("kl", (log_softmax + constant, log_softmax, labels), temperature=temperature)
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-10, rtol=0)
    other = log_softmax.clone()
    other[:, 0] += 1
    assert (losses("kl", (other, log_softmax, labels), temperature=temperature) > 0).all()


@examples(50)
@given(batches(), temperatures)
def test_the_gradient_of_distillation_is_the_difference_of_the_softened_answers(batch, temperature):
    """d/df T²·KL = T·(softmax(f/T) − softmax(z/T)): of one size at any temperature."""
    student, log_softmax, labels = batch
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(losses("kl", (student, log_softmax, labels), temperature=temperature).sum(), student)
    expected = temperature * ((student / temperature).softmax(1) - (log_softmax / temperature).softmax(1))
    torch.testing.assert_close(gradient, expected.detach(), atol=1e-9, rtol=1e-6)


@pytest.mark.parametrize("name", names("targets"))
def test_every_gradient_is_that_of_its_loss(name):
    draw = torch.Generator().manual_seed(0)
    student = torch.randn(3, 4, generator=draw, dtype=torch.float64, requires_grad=True)
    log_softmax = torch.randn(3, 4, generator=draw, dtype=torch.float64).log_softmax(1)
    labels = torch.tensor([0, 3, 1])
    assert torch.autograd.gradcheck(lambda logits: losses(name, (logits, log_softmax, labels)), student)


@given(batches())
def test_labels_and_argmax_are_cross_entropies(batch):
    student, log_softmax, labels = batch
    chances = [softmax_by_hand(row, 1.0) for row in student.tolist()]
    by_label = [-math.log(row[label]) for row, label in zip(chances, labels.tolist(), strict=True)]
    by_argmax = [-math.log(row[z.index(max(z))]) for row, z in zip(chances, log_softmax.tolist(), strict=True)]
    assert losses("labels", batch).tolist() == pytest.approx(by_label, rel=1e-6, abs=1e-9)
    assert losses("argmax", batch).tolist() == pytest.approx(by_argmax, rel=1e-6, abs=1e-9)


@given(batches(), st.sampled_from([0.0, 0.3, 1.0]), temperatures)
def test_a_mix_is_a_share_of_each(batch, alpha, temperature):
    distilled, labelled = losses("kl", batch, temperature=temperature), losses("labels", batch)
    torch.testing.assert_close(
        losses("mix", batch, alpha=alpha, temperature=temperature), alpha * distilled + (1 - alpha) * labelled
    )


@pytest.mark.parametrize("name", names("targets"))
def test_an_images_loss_is_its_own(name):
    """(B,) before weights, and no image's loss depends on the batch it came in."""
    draw = torch.Generator().manual_seed(1)
    student, teacher = torch.randn(5, 3, generator=draw), torch.randn(5, 3, generator=draw).log_softmax(1)
    labels = torch.tensor([0, 1, 2, 0, 1])
    together = losses(name, (student, teacher, labels))
    assert together.shape == (5,)
    for i in range(5):
        alone = losses(name, (student[i : i + 1], teacher[i : i + 1], labels[i : i + 1]))
        torch.testing.assert_close(together[i : i + 1], alone)


@pytest.mark.parametrize("name", ["kl", "argmax"])
def test_pure_teachers_never_look_at_the_labels(name):
    student, teacher = torch.randn(4, 3), torch.randn(4, 3).log_softmax(1)
    one, other = (losses(name, (student, teacher, torch.full((4,), label))) for label in (0, 2))
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_confident_backbones_do_not_break_distillation():
    certain = torch.tensor([[0.0, -2000.0, -3000.0]])
    student = torch.tensor([[-500.0, 500.0, 0.0]], requires_grad=True)
    loss = losses("kl", (student, certain, torch.tensor([0])), temperature=1.0)
    loss.sum().backward()
    assert loss.item() == pytest.approx(1000) and torch.isfinite(student.grad).all()


@given(
    batches(),
    temperatures,
    st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.sampled_from([0.0, 0.5]),
)
def test_what_fades_is_a_mix_at_each_depth(batch, temperature, depth, first, last):
    found = losses("fading", batch, depth=depth, first=first, last=last, temperature=temperature)
    alpha = first * (1 - depth) + last * depth
    torch.testing.assert_close(found, losses("mix", batch, alpha=alpha, temperature=temperature))


def test_depths_are_even_from_the_first_branch_to_the_last():
    assert [depth_of(k, 4) for k in range(4)] == [0.0, 1 / 3, 2 / 3, 1.0]
    assert depth_of(0, 1) == 0.0, "an only branch is the first"


def test_a_recipe_gives_each_exit_the_loss_of_its_depth():
    """The three exits' losses, and their sum's mean over images; a branch that trains by itself is told its depth."""
    draw = torch.Generator().manual_seed(0)
    logits, teacher = torch.randn(3, 5, 4, generator=draw), torch.randn(5, 4, generator=draw).log_softmax(1)
    batch = SimpleNamespace(log_softmax=teacher, labels=torch.tensor([0, 1, 2, 3, 0]))
    block = {"name": "fading", "first": 0.8, "last": 0.2, "temperature": 2.0}
    job = TrainingJob(None, block, {}, 0, torch.device("cpu"), "", depth=0.5)
    expected = torch.stack(
        [
            losses("mix", (each, teacher, batch.labels), alpha=a, temperature=2.0)
            for each, a in zip(logits, (0.8, 0.5, 0.2), strict=True)
        ]
    )
    torch.testing.assert_close(job.losses_of_exits()(list(logits), batch), expected)
    torch.testing.assert_close(job.summed_loss()(list(logits), batch), expected.sum(0).mean())
    torch.testing.assert_close(job.target_losses()(logits[1], batch), expected[1])


def test_one_loss_for_all_branches_is_refused_where_it_depends_on_depth():
    job = TrainingJob(None, {"name": "fading"}, {}, 0, torch.device("cpu"), "train-branches seed 0")
    with pytest.raises(CalexError, match="train-branches seed 0: the target 'fading' depends on where a branch sits"):
        job.target_losses()
    TrainingJob(None, {"name": "labels"}, {}, 0, torch.device("cpu"), "").target_losses()
