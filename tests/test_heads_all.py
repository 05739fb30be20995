"""All heads: maps of any size, gradients, and FLOPs by hand; the head that a budget buys."""

from __future__ import annotations

import math

import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st

from calex import plugins
from calex.branches.branch import Branch, Classifier
from calex.heads import auto
from calex.heads.separable import channels_last
from calex.system import flops

torch.set_num_threads(1)
HEADS = plugins.names("heads")


def block(name: str, **options: object) -> dict:
    """A head's completed block, small, with what `auto` reads off the features."""
    known = plugins.constants("heads", name).get("OPTIONS", {})
    small = {"prototypes": 4, "filters": 4, "hidden": 3, "backbone_flops": 10**6, "classes": 3}
    chosen = {key: value for key, value in small.items() if key in known}
    return plugins.complete("heads", {"name": name, **chosen, **options}, "head")


def classifier(head: dict, shape: tuple[int, int, int], classes: int = 3) -> Classifier:
    torch.manual_seed(0)
    return Classifier(head, shape, classes)


@pytest.mark.parametrize("shape", [(3, 1, 1), (3, 2, 2), (5, 3, 5), (2048, 1, 1), (2048, 2, 2)], ids=str)
@pytest.mark.parametrize("name", HEADS)
def test_every_head_takes_every_map(name: str, shape: tuple[int, int, int]) -> None:
    module = classifier(block(name), shape)
    images = torch.randn(4, *shape, generator=torch.Generator().manual_seed(1))
    logits = module.train().classify(images)
    assert logits.shape == (4, 3) and module.core(images).shape == (4, module.core.width)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and torch.isfinite(parameter.grad).all() for parameter in module.parameters())
    module.eval()
    alone = torch.cat([module.classify(image[None]) for image in images])
    torch.testing.assert_close(module.classify(images), alone, atol=1e-4, rtol=1e-4)  # no image depends on its batch


@pytest.mark.parametrize("name", HEADS)
def test_gradients_are_those_of_small_differences(name: str) -> None:
    module = classifier(block(name), (3, 3, 4)).double().eval()
    images = torch.randn(2, 3, 3, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    direction = torch.randn(images.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights = torch.randn(2, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def value(at: torch.Tensor) -> torch.Tensor:
        return (module.classify(at) * weights).sum()

    (gradient,) = torch.autograd.grad(value(images), images)
    step = 1e-6
    with torch.no_grad():
        slope = (value(images + step * direction) - value(images - step * direction)) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum(), slope, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["separable", "strided"])
def test_the_layout_of_a_map_changes_no_answer(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(4, 6, 8, 8, generator=torch.Generator().manual_seed(1))
    assert channels_last(images).is_contiguous(memory_format=torch.channels_last)
    gradients = []
    for _ in range(2):
        module = classifier(block(name), (6, 8, 8)).train()
        logits = module.classify(images)
        logits.square().sum().backward()
        gradients.append([logits.detach(), *(parameter.grad for parameter in module.parameters())])
        for place in ("calex.heads.separable", "calex.heads.strided"):
            monkeypatch.setattr(f"{place}.channels_last", lambda feature_map: feature_map)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


# FLOPs by hand: a multiply-add is two.


def core_flops(name: str, shape: tuple[int, int, int], **options: object) -> int:
    return flops.of(classifier(block(name, **options), shape).core.eval(), *shape)


def test_neighbourhoods_cost_nine_multiply_adds_per_channel_and_place() -> None:
    # 64×16×16, stride 2 to 8×8: 2·9·64·64 = 73,728; 1×1 to 128 prototypes: 2·64·128·64 = 1,048,576.
    assert core_flops("local_prototype", (64, 16, 16), prototypes=128, stride=2) == 73_728 + 1_048_576
    # Stride 1 keeps 256 places: 2·9·64·256 = 294,912; 2·64·128·256 = 4,194,304.
    assert core_flops("local_prototype", (64, 16, 16), prototypes=128, stride=1) == 294_912 + 4_194_304


def test_strided_convolutions_by_hand() -> None:
    # 64×16×16 to 32×8×8: 2·9·64·32·64 = 2,359,296; to 32×4×4: 2·9·32·32·16 = 294,912.
    assert core_flops("strided", (64, 16, 16), filters=32, blocks=2) == 2_359_296 + 294_912
    # 5×3×5 to 4×2×3 to 4×1×2: 2·9·5·4·6 = 2,160; 2·9·4·4·2 = 576.
    assert core_flops("strided", (5, 3, 5), filters=4, blocks=2) == 2_160 + 576


def test_a_hidden_layer_and_a_grid_by_hand() -> None:
    # 16×8×8 to 4×4×4: 2·9·16·16 = 4,608 and 2·16·4·16 = 2,048. Mean and maximum of 2×2 cells: 2·4·4 = 32 numbers, to 6 units: 2·32·6.
    assert core_flops("separable", (16, 8, 8), filters=4, blocks=1, grid=2, hidden=6) == 4_608 + 2_048 + 384
    assert classifier(block("separable", filters=4, blocks=1, grid=2, hidden=0), (16, 8, 8)).core.width == 32


def test_sdn_costs_its_linear_layer_alone() -> None:
    module = classifier(block("sdn"), (64, 8, 8), classes=10)
    assert module.flops()[0] == 2 * 64 * 16 * 10  # 64 channels in 4×4 cells


def test_prototypes_of_quarters_cost_what_prototypes_cost_and_a_wider_classifier() -> None:
    quarters, whole = (classifier(block("prototype", prototypes=8, grid=grid), (6, 4, 4), classes=5) for grid in (2, 1))
    assert quarters.core.width == 2 * 8 * 4 + 6
    assert quarters.flops()[0] - whole.flops()[0] == 2 * (2 * 8 * 3) * 5


def test_each_quarter_is_pooled_by_itself() -> None:
    head = block("prototype", prototypes=3, grid=2)
    torch.manual_seed(0)
    core = Branch(head, (6, 4, 4), 3, shared_core=True).core.eval()
    images = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(1))
    whole = plugins.load("heads", "prototype").build(6, 2, 2, **{**plugins.options_of(head), "grid": 1})
    whole.load_state_dict(core.state_dict())
    whole.eval()
    with torch.no_grad():
        found = core(images)
        parts = {(top, left): whole(images[:, :, top : top + 2, left : left + 2]) for top in (0, 2) for left in (0, 2)}
    by_cell = found[:, : 2 * 3 * 4].reshape(2, 2, 3, 4)  # image, mean or maximum, prototype, cell
    for cell, (top, left) in enumerate(parts):
        expected = parts[top, left][:, : 2 * 3].reshape(2, 2, 3)
        torch.testing.assert_close(by_cell[..., cell], expected, atol=1e-5, rtol=1e-5)


# The head that a budget buys.


@examples(15)
@given(
    st.sampled_from([(64, 16, 16), (24, 9, 7), (512, 2, 2), (2048, 1, 1), (3, 1, 1)]),
    st.floats(0.0005, 0.1),
    st.sampled_from([10, 100, 1000]),
)
def test_a_budget_is_kept_and_used(shape: tuple[int, int, int], budget: float, classes: int) -> None:
    backbone = 300_000_000

    def cost(**head: object) -> int:
        return classifier(block(**head), shape, classes).flops()[0]

    module = classifier(block("auto", budget=budget, backbone_flops=backbone, classes=classes), shape, classes)
    filters = [part.out_channels for part in module.core if isinstance(part, torch.nn.Conv2d)][-1]
    if cost(name="strided", blocks=2, filters=64) <= budget * backbone:
        kind, least = {"name": "strided", "blocks": 2}, 64
    else:
        kind, least = {"name": "separable", "blocks": 3, "grid": 1, "hidden": 0}, 8
    assert module.flops()[0] == cost(**kind, filters=filters) and filters % 8 == 0 and filters >= least
    assert module.flops()[0] <= budget * backbone or filters == 8
    assert cost(**kind, filters=filters + 8) > budget * backbone or filters == 512


def test_the_first_budget_for_strided_convolutions_by_hand() -> None:
    # 64 filters over 128×8×8: 2·9·128·64·16 = 2,359,296; 2·9·64·64·4 = 294,912; mean and maximum to 10 classes: 2·128·10 = 2,560.
    least = 2_359_296 + 294_912 + 2_560
    assert auto.choice(128, 8, 8, least, 10) == {"name": "strided", "blocks": 2, "filters": 64}
    # One FLOP less. Separable ones of f filters cost 2·9·128·16 = 36,864 and 2·128·f·16, then 2·9·f·4 and 2·f·f·4, then 2·9·f and
    # 2·f·f, and 2·2f·10: 36,864 + 4,226·f + 10·f². That is 2,585,760 for 336 filters, and 2,673,968 for 344.
    assert 36_864 + 4_226 * 336 + 10 * 336**2 <= least - 1 < 36_864 + 4_226 * 344 + 10 * 344**2
    separable = {"name": "separable", "blocks": 3, "grid": 1, "hidden": 0, "filters": 336}
    assert auto.choice(128, 8, 8, least - 1, 10) == separable


@pytest.mark.parametrize(
    ("budget", "by_hand"),
    [(0.0001, {"name": "separable", "blocks": 3, "grid": 1, "hidden": 0}), (0.01, {"name": "strided", "blocks": 2})],
)
def test_counting_the_cost_of_a_budget_draws_no_random_numbers(budget: float, by_hand: dict) -> None:
    by_budget = classifier(block("auto", budget=budget, backbone_flops=300_000_000, classes=3), (16, 8, 8))
    filters = [part.out_channels for part in by_budget.core if isinstance(part, torch.nn.Conv2d)][-1]
    for one, other in zip(
        by_budget.parameters(), classifier(block(**by_hand, filters=filters), (16, 8, 8)).parameters(), strict=True
    ):
        assert torch.equal(one, other)
    assert math.isfinite(float(by_budget.eval().classify(torch.randn(1, 16, 8, 8)).detach().sum()))
