"""BoostNet: the running sum and its loss in plain loops, where gradients stop, and heads that are alone at t = 0."""

from __future__ import annotations

import math

import pytest
import torch
from joint_cascades import CLASSES, IMAGES, SHAPES, build, everything, learners, train, write_store

from calex import plugins
from calex.branches.branch import Classifier, predict_log_proba
from calex.branches.fitting import TrainingJob
from calex.features.loader import Loader
from calex.recipes.boostnet import Boosted


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"))


def sums_by_loops(cascade: Boosted, taps: list[torch.Tensor], boost: float) -> list[list[list[float]]]:
    """F_n of each exit, image and class, from each head's own f_n."""
    with torch.no_grad():
        own = [branch.classify(tap).tolist() for branch, tap in zip(cascade.branches, taps, strict=True)]
    found = [own[0]]
    for n in range(1, len(own)):
        found.append([[own[n][i][c] + boost * found[-1][i][c] for c in range(CLASSES)] for i in range(len(own[n]))])
    return found


@pytest.mark.parametrize("boost", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("head", ["boostnet", "prototype"])
def test_exits_answer_the_running_sum(store, head, boost):
    cascade, taps = build("boostnet", head, boost=boost).eval(), everything(store).taps
    expected = sums_by_loops(cascade, taps, boost)
    for n, (log_probabilities, confidence) in enumerate(predict_log_proba(cascade, taps)):
        assert confidence is None
        for i in range(IMAGES):
            whole = sum(math.exp(value) for value in expected[n][i])
            chances = [math.exp(value) / whole for value in expected[n][i]]
            assert list(map(math.exp, log_probabilities[i])) == pytest.approx(chances, rel=1e-4)


def test_the_loss_equals_plain_loops(store):
    cascade, batch = build("boostnet").train(), everything(store)
    total = 0.0
    for rows in sums_by_loops(cascade, batch.taps, 0.75):
        for row, label in zip(rows, batch.labels.tolist(), strict=True):
            total += math.log(sum(math.exp(value) for value in row)) - row[label]
    found = train("boostnet", build("boostnet", boost=0.75), store, boost=0.75, epochs=1, learning_rate=1e-30)
    assert found == [pytest.approx(total / IMAGES, rel=1e-4)]


def test_no_gradient_reaches_an_earlier_branch(store):
    taps = everything(store).taps
    for n in range(len(SHAPES)):
        cascade = build("boostnet", boost=1.0).train()
        cascade(taps)[n][0].square().sum().backward()
        assert learners(cascade) == {n + 1}


def test_without_boost_every_head_learns_alone(store):
    cascade = build("boostnet", "prototype", boost=0.0)
    train("boostnet", cascade, store, boost=0.0, epochs=3, batch_size=16, learning_rate=0.01)
    recipe = plugins.load("recipes", "boostnet")
    options = plugins.options_of(
        plugins.complete("recipes", {"name": "boostnet", "epochs": 3, "batch_size": 16, "learning_rate": 0.01}, "recipe")
    )
    head = plugins.complete("heads", {"name": "prototype"}, "head")
    for k, shape in enumerate(SHAPES):
        torch.manual_seed(k + 1)
        alone = Boosted([Classifier(head, shape, CLASSES)], boost=0.0)
        recipe.train(
            alone, TrainingJob(Loader(store, [k], 16, seed=0), {"name": "labels"}, options, 0, torch.device("cpu"), "alone")
        )
        for name, tensor in alone.branches[0].state_dict().items():
            torch.testing.assert_close(cascade.branches[k].state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_it_learns(store):
    history = train("boostnet", build("boostnet"), store, epochs=40, batch_size=16, learning_rate=0.005)
    assert history[-1] < 0.1 * history[0]


def test_the_published_head_costs_what_its_layers_cost():
    # 64 channels of 8×8: 2·64·128·9 at 4×4 = 2,359,296; 2·128·128·9 at 2×2 = 1,179,648; linear 2·128·10 = 2,560.
    block = plugins.complete("heads", {"name": "boostnet"}, "head")
    assert Classifier(block, (64, 8, 8), 10).flops() == (2_359_296 + 1_179_648 + 2_560, None)
    assert Classifier(block, (64, 1, 1), 10).flops()[0] == 2 * 64 * 128 * 9 + 2 * 128 * 128 * 9 + 2_560
