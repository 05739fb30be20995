"""A cascade that answers: cut into stages, routed for real, and equal to what was computed from stored features."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from small_cascades import CLASSES, METHODS, POOL, TAPS, WITH_CONFIDENCE, Small, made, random_weights
from torch import nn

from calex import plugins
from calex.backbones.build import freeze
from calex.backbones.taps import tapping
from calex.backbones.vision import models
from calex.deploy.cascade import Cascade
from calex.deploy.cut import cut
from calex.deploy.folder import assembled
from calex.deploy.sweep import Wish
from calex.errors import CalexError
from calex.simulation.cascade import leave, predict
from calex.simulation.cost import Costs
from calex.simulation.exits import Exits
from calex.simulation.exits_file import half
from calex.simulation.last import LAST, combined
from calex.simulation.rule import calibrated
from calex.simulation.scores import scores

POLICIES = [
    name for name in plugins.names("policies") if not plugins.constants("policies", name).get("OVER", False)
]  # those that decide over another's operating points leave by that one's rule


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_decides_in_a_cascade_as_over_stored_exits(name: str) -> None:
    """Also those that make a score of all exits so far; at every operating point."""
    cascade = made("branchwise", "margin", np.zeros((1, 3, CLASSES)), seed=5)
    inputs = torch.randn((80, 3, 7, 7), generator=torch.Generator().manual_seed(5))
    exits, said = whole(cascade, inputs)
    policy, block = plugins.load("policies", name), plugins.complete("policies", {"name": name}, "policy")
    options = plugins.options_of(block) | ({"steps": 6} if "steps" in block else {})
    if getattr(policy, "LOG_SOFTMAX", False):
        exits = replace(exits, log_probabilities=half(said[:-1]))
    labels = np.random.default_rng(0).integers(0, CLASSES, len(inputs))
    parameters = policy.parameters(**options)
    rule = calibrated(policy, replace(exits, labels=labels), parameters, "label", options)
    # Some policies put a threshold on an image's own score, which a batch of another size may compute in other last bits.
    rule = replace(rule, thresholds=rule.thresholds - 1e-5)
    points = len(rule.thresholds)
    few = {"thresholds": rule.thresholds, "learnt": rule.learnt, "policy": block, "parameters": ["{}"] * points}
    cascade.sweep = replace(cascade.sweep, **few)
    taken = rule.leave(exits)
    assert len(np.unique(taken)) > 1
    for cascade.point in range(points):
        assert np.array_equal(cascade(inputs).exit.numpy(), taken[cascade.point]), cascade.point


EVERYONE, NOBODY = np.full((1, 3, CLASSES), -np.inf), np.full((1, 3, CLASSES), np.inf)


def whole(cascade: Cascade, inputs: torch.Tensor) -> tuple[Exits, np.ndarray]:
    """What every exit says about every image, as the workflow computes it: all taps, rounded, then all branches."""
    cascade.eval()
    with torch.no_grad(), tapping(cascade.network, TAPS, POOL, torch.float16) as taps:
        network = cascade.network(inputs.clone()).log_softmax(1).numpy()
        outputs = cascade.branches([tap.float() for tap in taps])
    said = [output.logits.log_softmax(1).numpy() for output in outputs]
    by_score = [
        scores(each, None if output.confidence is None else output.confidence.sigmoid().numpy())
        for each, output in zip(said, outputs, strict=True)
    ]
    exits = Exits(
        np.stack([each.argmax(1) for each in said]), np.stack([each[cascade.about["score"]] for each in by_score]),
        network.argmax(1), network.argmax(1), CLASSES, Costs((1.0, 2.0, 3.0), (0.1,) * 3, 4.0),
    )  # fmt: skip
    return exits, np.stack([*said, network])


@examples(60)
@given(method=st.sampled_from(sorted(METHODS)), data=st.data(), images=st.integers(0, 9), seed=st.integers(0, 99))
def test_images_are_answered_as_if_every_exit_had_been_asked(method: str, data: st.DataObject, images: int, seed: int) -> None:
    score = data.draw(
        st.sampled_from(["max_softmax", "margin", "entropy", *(["confidence"] if method in WITH_CONFIDENCE else [])])
    )
    draw = np.random.default_rng(seed)
    thresholds = draw.choice([-np.inf, 0.2, 0.5, 0.8, np.inf], size=(2, 3, CLASSES))
    cascade = made(method, score, thresholds, seed)
    cascade.about["last"] = data.draw(st.sampled_from(LAST))
    inputs = torch.randn((images, 3, 7, 7), generator=torch.Generator().manual_seed(seed))
    exits, said = whole(cascade, inputs) if images else (None, None)
    if exits is not None and said is not None and cascade.about["last"] == "combined":
        said[3] = combined(said[3], said[2])
        exits = replace(exits, last=said[3].argmax(1))
    for cascade.point in (0, 1):
        answers = cascade(inputs)
        assert [len(part) for part in answers] == [images] * 4 and answers.probabilities.shape == (images, CLASSES)
        if exits is None or said is None:
            continue
        assert np.array_equal(answers.exit.numpy(), leave(exits, thresholds)[cascade.point])
        assert np.array_equal(answers.prediction.numpy(), predict(exits, answers.exit.numpy().astype(np.uint8)[None])[0])
        taken = answers.exit.numpy(), np.arange(images)
        np.testing.assert_allclose(answers.probabilities.numpy(), np.exp(said[taken]), atol=2e-4)
        early = answers.exit.numpy() < 3
        np.testing.assert_allclose(answers.score.numpy()[early], exits.scores[taken[0][early], taken[1][early]], atol=1e-4)
        alone = [cascade(inputs[n : n + 1]) for n in range(images)]
        assert [int(one.exit) for one in alone] == answers.exit.tolist()
        assert [int(one.prediction) for one in alone] == answers.prediction.tolist()


def test_what_leaves_is_not_computed_further() -> None:
    """The deeper stages see the images that are left, and no stage runs for none."""
    cascade, seen = made("ztw", "max_softmax", np.array([[[-np.inf, np.inf] * 2, [np.inf] * 4, [-np.inf] * 4]])), []
    for stage in cascade.stages:
        stage.register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    answers = cascade(torch.randn(64, 3, 7, 7))
    first = int((answers.exit == 0).sum())
    assert 0 < first < 64 and seen == [64, 64 - first, 64 - first]
    cascade.sweep.thresholds[:] = NOBODY
    seen.clear()
    assert set(cascade(torch.randn(5, 3, 7, 7)).exit.tolist()) == {3} and seen == [5] * 4
    cascade.sweep.thresholds[:] = EVERYONE
    seen.clear()
    assert set(cascade(torch.randn(5, 3, 7, 7)).exit.tolist()) == {0} and seen == [5]


def test_inputs_stay_as_they_are_and_formats_do_not_matter() -> None:
    cascade = made("branchwise", "margin", np.full((1, 3, CLASSES), 0.3))
    inputs = torch.randn(20, 3, 7, 7)
    before, answers = inputs.clone(), cascade(inputs)
    assert torch.equal(inputs, before) and not cascade.training and not cascade.train().training
    last = cascade(inputs.contiguous(memory_format=torch.channels_last))
    assert torch.equal(answers.exit, last.exit) and torch.equal(answers.prediction, last.prediction)
    with torch.autocast("cpu", torch.bfloat16):
        lower = cascade(inputs)
    assert lower.probabilities.dtype == torch.float32 and (lower.prediction == answers.prediction).float().mean() > 0.7


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("recipe", ["branchwise", "ztw", "boostnet"])
def test_weights_of_another_precision_answer_alike(recipe: str, dtype: torch.dtype) -> None:
    cascade, inputs = made(recipe, "max_softmax", np.full((1, 3, CLASSES), 0.3)), torch.randn(64, 3, 7, 7)
    answers, before = cascade(inputs), inputs.clone()
    other = cascade.to(dtype)(inputs)
    assert cascade.dtype == dtype and torch.equal(inputs, before) and other.probabilities.dtype == torch.float32
    exact = dtype == torch.float64
    assert (other.exit == answers.exit).float().mean() >= (1 if exact else 0.9)
    assert (other.prediction == answers.prediction).float().mean() >= (1 if exact else 0.9)
    assert cascade(inputs[:0]).exit.shape == (0,)


@pytest.mark.parametrize("size", [(1, 3000), (3000, 1), (7, 7), (40, 30)])
def test_pictures_of_any_size_are_read_as_squares(size: tuple[int, int], tmp_path: Any) -> None:
    from PIL import Image

    Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "red.png")
    cascade = made("branchwise", "margin", NOBODY)
    one, pixels = cascade.classify([tmp_path / "red.png"]), np.full((1, 7, 7, 3), (200, 30, 30), np.uint8)
    np.testing.assert_allclose(one.probabilities, cascade.classify(pixels).probabilities, atol=1e-5)


def test_branches_that_cannot_be_computed_one_by_one_are_refused() -> None:
    cascade = made("branchwise", "margin", NOBODY)

    class Together(type(cascade.branches)):  # type: ignore[misc]
        def forward(self, taps: Any) -> Any:
            return list(reversed(super().forward(taps)))

    branches = copy.copy(cascade.branches)
    branches.__class__ = Together
    with pytest.raises(CalexError, match=r"Together.*forward.*`exit`"):
        assembled(cascade.network, branches, cascade.sweep, cascade.about, 0)


NETWORKS = [
    ("mobilenet_v3_small", ["features.3", "features.8"], 32), ("densenet121", ["features.denseblock1", "features.transition1"], 32),
    ("efficientnet_b0", ["features.3", "features.5"], 32), ("convnext_tiny", ["features.1", "features.5"], 32),
    ("vit_b_32", ["encoder.layers.encoder_layer_1", "encoder.layers.encoder_layer_3"], 32), ("swin_t", ["features.1", "features.3"], 32),
    ("googlenet", ["inception3a", "inception4a"], 64), ("shufflenet_v2_x0_5", ["stage2", "stage3"], 32),
]  # fmt: skip


@pytest.mark.parametrize(("name", "taps", "size"), NETWORKS, ids=[name for name, *_ in NETWORKS])
def test_networks_of_torchvision_are_cut(name: str, taps: list[str], size: int) -> None:
    """`cut` compares the stages with the whole network, on images that leave one by one."""
    options = {"googlenet": {"init_weights": False}, "vit_b_32": {"image_size": 32}}.get(name, {})
    network = freeze(models.get_model(name, weights=None, num_classes=5, **options))
    stages = cut(network, taps, (3, size, size), name)
    assert len(stages) == 3
    shared = {id(tensor) for tensor in network.parameters()}
    assert all(id(tensor) in shared for stage in stages for tensor in stage.parameters())


class Asking(Small):
    """Code that looks at a tensor's values while it runs, which torch.fx cannot follow; the number of images is carried."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        count = images.shape[0]
        torch._check(count > 0)
        if not isinstance(images, torch.Tensor):
            raise TypeError("no tensor")
        first = self.overwrite(self.one(images))
        if bool(first.shape[2] > 100):
            return self.answer(first.mean((2, 3))[:, :1].expand(-1, 8))
        third = self.three(self.two(first))
        return self.answer((third + self.skip(first)).mean((2, 3)).reshape(count, 8))


class Neighbours(Small):
    """Its answer to an image depends on the other images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        second = self.two(self.one(images))
        return self.answer((second - second.mean(0)).mean((2, 3)))


class Choosing(Small):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        first = self.one(images)
        return self.answer((self.two(first) if first.sum().item() > 0 else self.two(-first)).mean((2, 3)))


def test_what_fx_cannot_follow_is_cut_by_export() -> None:
    network = Asking()
    random_weights(network, 3)
    stages = cut(freeze(network), TAPS, (3, 7, 7), "asking")
    assert {kind for stage in stages for kind in stage.carried} == {"rows", "count"}
    thresholds = np.random.default_rng(0).choice([0.2, 0.5, 0.8], size=(1, 3, CLASSES))
    answers = made("ztw", "margin", thresholds, 3, Asking())(inputs := torch.randn(30, 3, 7, 7))
    expected = made("ztw", "margin", thresholds, 3)(inputs)
    assert torch.equal(answers.exit, expected.exit) and torch.equal(answers.prediction, expected.prediction)
    assert len(set(answers.exit.tolist())) > 1


@pytest.mark.parametrize(
    ("network", "taps", "reason"),
    [
        (Neighbours, ["one", "two"], "other logits than whole"),
        (Choosing, ["one"], "torch.fx.*torch.export"),
        (Small, ["two", "one"], "another order"),
    ],
)
def test_a_network_that_cannot_be_cut_is_refused_with_the_reasons(
    network: type[nn.Module], taps: list[str], reason: str
) -> None:
    with pytest.raises(CalexError, match=f"network: mine cannot be cut at its taps .*{reason}"):
        cut(freeze(network()), taps, (3, 7, 7), "mine")


@given(
    points=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 8)), min_size=1, max_size=12),
    flops=st.none() | st.integers(0, 9),
    accuracy=st.none() | st.integers(0, 9),
    drop=st.none() | st.integers(0, 9),
)
def test_an_operating_point_is_the_best_that_fits(
    points: list[tuple[int, int]], flops: int | None, accuracy: int | None, drop: int | None
) -> None:
    """A loop over all points, in tenths."""
    if flops is accuracy is drop is None:
        with pytest.raises(CalexError, match="give one"):
            Wish()
        return
    wish = Wish(*(None if value is None else value / 10 for value in (flops, accuracy, drop)))
    best: int | None = None
    for place, (right, cost) in enumerate(points):
        if (
            (flops is not None and cost > flops)
            or (accuracy is not None and right < accuracy)
            or (drop is not None and right < 8 - drop)
        ):
            continue
        rank = (right, -cost) if accuracy is drop is None else (-cost, right)
        if best is None or rank > (
            (points[best][0], -points[best][1]) if accuracy is drop is None else (-points[best][1], points[best][0])
        ):
            best = place
    rights, costs = (np.array(column) / 10 for column in zip(*points, strict=True))
    assert wish.choose(rights, costs, 0.8) == best


def test_moving_along_the_curve_shares_the_weights() -> None:
    cascade = made("branchwise", "margin", np.stack([EVERYONE[0], NOBODY[0]]))
    accurate, cheap = cascade.at(min_accuracy=0.5), cascade.at(max_flops=0.5)
    assert (cascade.point, accurate.point, cheap.point) == (0, 1, 0)
    assert accurate.stages is cascade.stages and "point 1 of 2" in repr(accurate)
    assert set(accurate(torch.randn(3, 3, 7, 7)).exit.tolist()) == {3}
    with pytest.raises(CalexError, match=r"no operating point has max_flops 0\.1; the cheapest costs 0\.200"):
        cascade.at(max_flops=0.1)


def test_fusing_leaves_the_answers_and_the_network_as_they_are() -> None:
    thresholds = np.random.default_rng(0).choice([0.2, 0.5, 0.8], size=(1, 3, CLASSES))
    cascade, inputs = made("ztw", "margin", thresholds, 7), torch.randn(50, 3, 7, 7)
    answers, network = cascade(inputs), cascade.network(inputs)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in cascade.stages.modules()) == 1
    fused = cascade.fuse()(inputs)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in cascade.stages.modules())
    assert torch.equal(cascade.network(inputs), network)
    assert (fused.exit == answers.exit).float().mean() > 0.9
    same = fused.exit == answers.exit
    torch.testing.assert_close(fused.probabilities[same], answers.probabilities[same], atol=5e-3, rtol=0)


def test_compiled_stages_answer_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    cascade, inputs = made("branchwise", "margin", np.full((1, 3, CLASSES), 0.3)), torch.randn(20, 3, 7, 7)
    answers = cascade(inputs)
    compiled = cascade.compile_stages(backend="eager")
    for count in (20, 1, 3):
        assert compiled(inputs[:count]).exit.tolist() == answers.exit[:count].tolist()
