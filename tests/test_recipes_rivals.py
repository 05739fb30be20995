"""E²CM, JEI-DNN, deep supervision and ensembles of exits: plain loops, limits, and what each is charged for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from joint_cascades import (
    CLASSES,
    IMAGES,
    SHAPES,
    build,
    costs_of,
    everything,
    learners,
    recipe_options,
    state,
    train,
    write_store,
)

from calex import plugins
from calex.branches.branch import Classifier, predict_log_proba
from calex.errors import CalexError
from calex.recipes import jei_dnn, l2w_den


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"))


RECIPES = [name for name in plugins.names("recipes") if plugins.constants("recipes", name).get("JOINT") and name != "e2cm"]


@pytest.mark.parametrize("name", RECIPES)
def test_a_loss_that_a_gpu_may_replay_is_the_same_at_every_batch(name, store, monkeypatch):
    """A CUDA graph holds what a loss did once: one that counts batches or trains in turns must not be replayed."""
    steady_ones = []

    def watched(parameters, loader, loss_of, label, *rest, steady=False, **options):
        batch = next(iter(loader.epoch(0)))
        values = {round(float(loss_of(batch).detach()), 4) for _ in range(30)}
        assert len(values) == 1 or not steady
        steady_ones.append(steady)
        return [0.0]

    monkeypatch.setattr(plugins.load("recipes", name), "fit", watched)
    short = {"jei_dnn": {"warmup": 2, "period": 3}, "l2w_den": {"meta_learning_rate": 0.1}, "pteenet": {"warmup": 2}}
    cascade = build(name, "prototype", **short.get(name, {}))
    train(name, cascade, store, **short.get(name, {}))
    assert set(steady_ones) == {name not in ("jei_dnn", "l2w_den")}


# Nearest class means.


@pytest.mark.parametrize("target", ["labels", "argmax"])
def test_an_exit_answers_the_nearest_mean(store, target):
    cascade, batch = build("e2cm", "flat", temperature=2.0), everything(store)
    assert train("e2cm", cascade, store, target, batch_size=8, temperature=2.0) == []
    labels = (batch.labels if target == "labels" else batch.log_softmax.argmax(1)).tolist()
    for k, (log_probabilities, confidence) in enumerate(predict_log_proba(cascade, batch.taps)):
        assert confidence is None
        side = min(2, SHAPES[k][1])
        x = torch.nn.functional.adaptive_avg_pool2d(batch.taps[k], (side, side)).flatten(1).double().numpy()
        means = [np.mean([x[i] for i in range(IMAGES) if labels[i] == c], axis=0) for c in range(CLASSES)]
        for i in range(IMAGES):
            weights = [math.exp(-math.dist(x[i], mean) / 2.0) for mean in means]
            expected = [weight / sum(weights) for weight in weights]
            np.testing.assert_allclose(np.exp(log_probabilities[i]), expected, rtol=1e-3)


def test_a_class_without_images_is_never_answered(store, capsys):
    cascade = plugins.load("recipes", "e2cm").build(
        {"name": "flat", "pool": 2}, SHAPES, CLASSES + 1, True, recipe_options("e2cm"), 0
    )
    train("e2cm", cascade, store)
    assert "1 of 4 classes have no training images" in capsys.readouterr().err
    for log_probabilities, _ in predict_log_proba(cascade, everything(store).taps):
        assert (np.exp(log_probabilities[:, -1]) == 0).all() and np.isfinite(log_probabilities).all()


def test_it_takes_no_head_that_would_have_to_learn():
    with pytest.raises(
        CalexError, match=r"head\.name: the recipe 'e2cm' trains nothing, but 'prototype' has weights; use flat"
    ):
        build("e2cm", "prototype")


def test_means_are_paid_for_as_the_linear_layer_that_they_are():
    # 6 channels of 2×2 and 3 classes: 2·24·3.
    assert build("e2cm", "flat").branches[1].flops() == (2 * 24 * 3, None)


# Deep supervision and ensembles.


def test_without_an_ensemble_each_branch_answers_for_itself(store):
    cascade, taps = build("supervised", "prototype").eval(), everything(store).taps
    with torch.no_grad():
        for output, branch, tap in zip(cascade(taps), cascade.branches, taps, strict=True):
            torch.testing.assert_close(output.logits, branch.classify(tap))


@pytest.mark.parametrize("ensemble", ["averaged", "geometric"])
def test_an_ensemble_answers_for_all_branches_so_far(store, ensemble):
    cascade, taps = build("supervised", "prototype", ensemble=ensemble).eval(), everything(store).taps
    with torch.no_grad():
        own = [branch.classify(tap).softmax(1).tolist() for branch, tap in zip(cascade.branches, taps, strict=True)]
    for k, (log_probabilities, _) in enumerate(predict_log_proba(cascade, taps)):
        for i in range(IMAGES):
            so_far = [[own[j][i][c] for j in range(k + 1)] for c in range(CLASSES)]
            means = [sum(p) / (k + 1) if ensemble == "averaged" else math.prod(p) ** (1 / (k + 1)) for p in so_far]
            np.testing.assert_allclose(np.exp(log_probabilities[i]), [m / sum(means) for m in means], rtol=1e-4)


def test_branches_learn_the_same_whatever_the_exits_answer(store):
    trained = []
    for ensemble in ("none", "averaged", "geometric"):
        cascade = build("supervised", "prototype", ensemble=ensemble)
        history = train("supervised", cascade, store, ensemble=ensemble, epochs=3, batch_size=16, learning_rate=0.01)
        trained.append((history, state(cascade)))
    for history, weights in trained[1:]:
        assert history == trained[0][0]
        for name, tensor in weights.items():
            torch.testing.assert_close(tensor, trained[0][1][name], rtol=0, atol=0)


def test_deep_supervision_is_the_sum_of_what_branches_learn_alone(store):
    """No weights are shared, so that the gradient of a branch is that of its own loss."""
    cascade, batch = build("supervised", "prototype").train(), everything(store)
    outputs = cascade(batch.taps)
    torch.nn.functional.cross_entropy(outputs[1].logits, batch.labels).backward()
    assert learners(cascade) == {2}


# JEI-DNN.


def test_what_a_gate_reads_by_plain_loops():
    logits = torch.tensor([[2.0, 1.0, -1.0], [0.0, 0.0, 0.0], [30.0, -30.0, 0.0]])
    for row, found in zip(logits.tolist(), jei_dnn.gate_inputs(logits).tolist(), strict=True):
        p = [math.exp(value) / sum(map(math.exp, row)) for value in row]
        squares = [value**2 / sum(each**2 for each in p) for value in p]
        entropy = [-sum(value * math.log(value) for value in each if value > 0) for each in (p, squares)]
        first, second, *_ = sorted(p, reverse=True)
        assert found == pytest.approx([first, entropy[0], first - second, entropy[1]], abs=1e-5)


def test_gates_should_open_from_the_cheapest_exit_on():
    draw = np.random.default_rng(0)
    losses, cost = draw.random((4, 50)), np.array([0.2, 0.5, 0.8, 1.0])
    for cost_weight in (0.0, 1.0, 100.0):
        found = jei_dnn.gate_targets(torch.tensor(losses), torch.tensor(cost), cost_weight).numpy()
        for i in range(50):
            total = [losses[k, i] + cost_weight * cost[k] for k in range(4)]
            best = total.index(min(total))
            assert found[:, i].tolist() == [float(k >= best) for k in range(3)]
    assert (found == 1).all(), "at a high price everybody should leave at once"


def test_the_chance_to_leave_at_each_branch_by_plain_loops():
    gates = torch.tensor(np.random.default_rng(0).normal(size=(3, 20)))
    found = jei_dnn.chances(gates).numpy()
    for i in range(20):
        reaches = 1.0
        for k in range(3):
            opens = 1 / (1 + math.exp(-float(gates[k, i])))
            assert found[k, i] == pytest.approx(reaches * opens)
            reaches *= 1 - opens


def parts_that_learn(store, **options):
    """Which parts of a cascade move in training: `gate` and `classifier`."""
    cascade = build("jei_dnn", "prototype")
    before = state(cascade)
    train("jei_dnn", cascade, store, **options)
    moved = {
        name.split(".")[2]
        for name, tensor in state(cascade).items()
        if tensor.is_floating_point() and not torch.equal(tensor, before[name])
    }
    return moved & {"gate", "classifier"}


def test_classifiers_and_gates_take_turns(store):
    """One batch an epoch: after the warm-up the gates learn for a period, then the classifiers."""
    common = {"learning_rate": 0.01, "period": 2}
    assert parts_that_learn(store, epochs=3, warmup=3, **common) == {"classifier"}
    assert parts_that_learn(store, epochs=2, warmup=0, **common) == {"gate"}
    assert parts_that_learn(store, epochs=3, warmup=0, **common) == {"gate", "classifier"}


def test_the_weights_of_the_classifiers_loss_are_constants_and_can_be_left_out(store):
    losses = {}
    for weighted in (True, False):
        cascade, batch = build("jei_dnn", "prototype").train(), everything(store)
        outputs = cascade(batch.taps)
        own = torch.stack([torch.nn.functional.cross_entropy(each.logits, batch.labels, reduction="none") for each in outputs])
        gates = torch.stack([each.confidence for each in outputs])
        expected = ((jei_dnn.chances(gates) if weighted else 1) * own).sum(0).mean().item()
        gate_epochs = train(
            "jei_dnn",
            build("jei_dnn", "prototype"),
            store,
            epochs=2,
            warmup=0,
            period=1,
            weighted=weighted,
            learning_rate=1e-30,
        )
        losses[weighted] = gate_epochs[1]
        assert losses[weighted] == pytest.approx(expected, rel=1e-3)
    assert losses[True] < losses[False]


def test_a_gate_costs_four_multiply_adds(store):
    cascade = build("jei_dnn", "prototype")
    block = plugins.complete("heads", {"name": "prototype"}, "head")
    for branch, shape in zip(cascade.branches, SHAPES, strict=True):
        alone = Classifier(block, shape, CLASSES).flops()[0]
        assert branch.flops() == (alone, alone + 8)
    assert costs_of(cascade).head[0] == cascade.branches[0].flops()[1]


def test_a_high_price_opens_the_first_gate_and_none_lets_the_best_exit_decide(store):
    opened = []
    for cost_weight in (0.0, 50.0):
        cascade = build("jei_dnn", "prototype", cost_weight=cost_weight)
        train("jei_dnn", cascade, store, cost_weight=cost_weight, epochs=120, warmup=20, period=1, learning_rate=0.02)
        _, confidence = predict_log_proba(cascade, everything(store).taps)[0]
        opened.append(confidence.mean())
    assert opened[1] > 0.8 > opened[0]


# L2W-DEN.


def test_exits_are_assigned_by_the_largest_maximum_of_those_who_remain():
    maximum = torch.tensor(np.random.default_rng(0).random((3, 40)))
    found = l2w_den.assigned(maximum, 0.75).numpy()
    assert (found.sum(0) == 1).all()
    sizes = [0.75 / (0.75 + 0.75**2 + 0.75**3) * 40, (0.75 + 0.75**2) / (0.75 + 0.75**2 + 0.75**3) * 40, 40]
    here = list(range(40))
    before = 0
    for k in range(3):
        ranked = sorted(here, key=lambda i: -float(maximum[k, i]))[: round(sizes[k]) - before]
        assert set(np.flatnonzero(found[k])) == set(ranked)
        here, before = [i for i in here if i not in ranked], round(sizes[k])


def test_weights_have_mean_one_and_are_all_one_at_first_or_without_spread():
    losses = torch.rand(30, 3)
    torch.testing.assert_close(l2w_den.Weigher(3, 8, 0.8)(losses), torch.ones(30, 3))
    for spread in (0.8, 0.0):
        weigher = l2w_den.Weigher(3, 8, spread)
        torch.nn.init.normal_(weigher[2].weight, std=3.0)
        weights = weigher(losses)
        torch.testing.assert_close(weights.mean(0), torch.ones(3))
        assert (weights.std(0) > 0.05).all() == (spread > 0)


def test_without_spread_it_is_deep_supervision(store):
    both = []
    for name, options in (("l2w_den", {"spread": 0.0}), ("supervised", {})):
        cascade = build(name, "sdn", **options)
        train(name, cascade, store, epochs=4, batch_size=16, learning_rate=0.01, **options)
        both.append(state(cascade))
    for name, tensor in both[0].items():
        torch.testing.assert_close(tensor, both[1][name], rtol=1e-4, atol=1e-5)


def test_the_weighing_network_learns_from_what_a_virtual_step_does(store):
    """Weights move away from 1, and the branches' buffers are those of the real steps alone."""
    cascades = []
    for spread in (0.0, 0.8):
        cascade = build("l2w_den", "prototype", spread=spread)
        train(
            "l2w_den",
            cascade,
            store,
            spread=spread,
            epochs=6,
            batch_size=16,
            period=1,
            meta_learning_rate=0.05,
            learning_rate=0.01,
        )
        cascades.append(state(cascade))
    steps = [value for name, value in cascades[1].items() if "num_batches_tracked" in name]
    assert all(int(value) == 6 * 3 for value in steps)
    assert any(not torch.equal(cascades[0][name], cascades[1][name]) for name in cascades[0] if "classifier" in name)
