"""Zero Time Waste: its head, chain and ensembles in plain loops, where gradients stop, what each phase leaves alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from joint_cascades import CLASSES, IMAGES, SHAPES, build, everything, learners, state, train, write_store

from calex import plugins
from calex.branches.branch import predict_log_proba
from calex.branches.fitting import rate
from calex.errors import CalexError
from calex.features.loader import Loader
from calex.recipes.ztw import cache_logits


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"), views=2)


def head(channels: int, height: int, width: int, pool: int = 4, alpha: float = 0.3) -> torch.nn.Module:
    torch.manual_seed(0)
    made = plugins.load("heads", "ztw").build(channels, height, width, pool=pool)
    with torch.no_grad():
        made.alpha.fill_(alpha)
    return made


def pooling_by_loops(module: torch.nn.Module, feature_map: np.ndarray, pool: int, alpha: float) -> list[float]:
    """One image (C, H, W) whose sides the grid divides."""
    weight, bias = (module.convolution.weight.detach().numpy(), module.convolution.bias.detach().numpy())
    channels, height, width = feature_map.shape
    padded = np.pad(feature_map, ((0, 0), (1, 1), (1, 1)))
    rows, columns = height // min(pool, height), width // min(pool, width)
    found = []
    for o in range(channels):
        seen = [
            [max(0.0, float((padded[:, r : r + 3, c : c + 3] * weight[o]).sum() + bias[o])) for c in range(width)]
            for r in range(height)
        ]
        for r in range(0, height, rows):
            for c in range(0, width, columns):
                cell = [seen[r + i][c + j] for i in range(rows) for j in range(columns)]
                found.append(alpha * max(cell) + (1 - alpha) * sum(cell) / len(cell))
    return found


@pytest.mark.parametrize(("shape", "pool"), [((3, 8, 8), 4), ((2, 4, 6), 2), ((3, 2, 3), 4), ((2, 1, 1), 4)])
def test_the_head_equals_plain_loops(shape, pool):
    module = head(*shape, pool=pool)
    images = torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = module(images)
    assert found.shape == (3, module.width)
    for image, row in zip(images.numpy(), found.tolist(), strict=True):
        assert row == pytest.approx(pooling_by_loops(module, image, pool, 0.3), rel=1e-4, abs=1e-5)


def test_the_mixture_of_poolings_is_learnt():
    module = head(2, 8, 8)
    module(torch.randn(2, 2, 8, 8)).sum().backward()
    assert module.alpha.grad.abs() > 0


def chain_by_loops(cascade, taps) -> list[np.ndarray]:
    """f_k (N, C) of each branch: the classifier reads its own core and then the logits before."""
    before, found = None, []
    for branch, tap in zip(cascade.branches, taps, strict=True):
        with torch.no_grad():
            core = branch.core(tap).double().numpy()
        read = core if before is None else np.concatenate([core, before], axis=1)
        before = read @ branch.classifier.weight.detach().double().numpy().T + branch.classifier.bias.detach().double().numpy()
        found.append(before)
    return found


def ensemble_by_loops(log_p: list[list[float]], w: list[float], b: list[float]) -> list[float]:
    """q_m of one image from log p_1..m."""
    m = len(log_p)
    mixed = [sum(math.exp(w[j]) * log_p[j][c] for j in range(m)) / m + b[c] for c in range(len(b))]
    whole = sum(math.exp(value - max(mixed)) for value in mixed)
    return [math.exp(value - max(mixed)) / whole for value in mixed]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@pytest.mark.parametrize("name", ["ztw", "prototype"])
def test_exits_answer_the_ensemble_of_the_chain(store, name):
    cascade, taps = build("ztw", name).eval(), everything(store).taps
    draw = torch.Generator().manual_seed(3)
    for branch in cascade.branches:
        for parameter in branch.ensemble.parameters():
            parameter.data = torch.randn(parameter.shape, generator=draw)
    log_p = [log_softmax(logits) for logits in chain_by_loops(cascade, taps)]
    for m, (found, confidence) in enumerate(predict_log_proba(cascade, taps), 1):
        assert confidence is None
        mixer = cascade.branches[m - 1].ensemble
        for i in range(IMAGES):
            expected = ensemble_by_loops([p[i].tolist() for p in log_p[:m]], mixer.weight.tolist(), mixer.bias.tolist())
            np.testing.assert_allclose(np.exp(found[i]), expected, rtol=1e-4, atol=1e-6)


def test_with_neutral_weights_the_ensemble_is_the_geometric_mean(store):
    cascade, taps = build("ztw").eval(), everything(store).taps
    for branch in cascade.branches:
        torch.nn.init.zeros_(branch.ensemble.weight)
        torch.nn.init.zeros_(branch.ensemble.bias)
    p = np.exp([log_softmax(logits) for logits in chain_by_loops(cascade, taps)])
    for m, (found, _) in enumerate(predict_log_proba(cascade, taps), 1):
        mean = np.prod(p[:m], axis=0) ** (1 / m)
        np.testing.assert_allclose(np.exp(found), mean / mean.sum(axis=1, keepdims=True), rtol=1e-4)


def test_the_previous_logits_are_read_and_not_taught(store):
    taps = everything(store).taps
    for k in range(len(SHAPES)):
        cascade = build("ztw").train()
        cascade.logits(taps)[k].square().sum().backward()
        assert learners(cascade) == {k + 1}
        if k:
            assert cascade.branches[k].classifier.weight.grad[:, -CLASSES:].abs().sum() > 0


def test_both_phases_minimise_the_sum_of_cross_entropies(store):
    cascade = build("ztw")
    batch = next(Loader(store, range(len(SHAPES)), 64, seed=0).epoch(0))
    labels, logits = batch.labels.tolist(), chain_by_loops(cascade, [tap.float() for tap in batch.taps])
    phase_1 = -sum(log_softmax(each)[range(IMAGES), labels].mean() for each in logits)
    memory = next(cache_logits(cascade, Loader(store, range(len(SHAPES)), 64, seed=0), 512, 0).epoch(0))
    phase_2 = 0.0
    for m, branch in enumerate(cascade.branches, 1):
        w, b = branch.ensemble.weight.tolist(), branch.ensemble.bias.tolist()
        for i, label in enumerate(memory.labels.tolist()):
            phase_2 -= math.log(ensemble_by_loops(memory.taps[0][i, :m].tolist(), w, b)[label]) / IMAGES
    found = train("ztw", cascade, store, epochs=1, learning_rate=1e-30, ensemble_epochs=1, ensemble_learning_rate=1e-30)
    assert found == [pytest.approx(phase_1, rel=1e-4), pytest.approx(phase_2, rel=1e-4)]


def test_what_is_cached_is_what_the_branches_say_of_that_view(store):
    cascade = build("ztw", "prototype")
    memory = cache_logits(cascade, Loader(store, range(len(SHAPES)), 16, seed=0), 10, seed=0)
    assert len(memory) == 4
    for number in range(2):
        seen = list(memory.epoch(number))
        position, view = (torch.cat([getattr(batch, name) for batch in seen]).numpy() for name in ("position", "view"))
        assert sorted(position) == list(range(IMAGES)) and set(view) == {0, 1}
        for batch in seen:
            rows, views = batch.position.numpy(), batch.view.numpy()
            taps = [torch.from_numpy(store.tap(k)[views, rows]).float() for k in range(len(SHAPES))]
            with torch.no_grad():
                torch.testing.assert_close(batch.taps[0], cascade.log_probabilities(taps), atol=1e-5, rtol=1e-4)
            np.testing.assert_array_equal(batch.log_softmax.numpy(), store.log_softmax[views, rows])
            np.testing.assert_array_equal(batch.labels.numpy(), store.labels[rows])


def test_each_phase_leaves_the_others_weights_alone(store):
    for options, moves in (
        ({"epochs": 2, "ensemble_epochs": 0}, False),
        ({"epochs": 1, "learning_rate": 1e-30, "ensemble_epochs": 2}, True),
    ):
        cascade = build("ztw", "prototype")
        before = state(cascade)
        train("ztw", cascade, store, **options)
        changed = {name for name, tensor in cascade.named_parameters() if not torch.equal(tensor, before[name])}
        assert changed and all((".ensemble." in name) == moves for name in changed)


def test_the_ensemble_starts_near_the_plain_mean_and_learns(store):
    cascade = build("ztw")
    for k, branch in enumerate(cascade.branches, 1):
        assert branch.ensemble.weight.shape == (k,) and branch.ensemble.weight.abs().max() < 0.06
        assert branch.ensemble.weight.abs().min() > 0 and not branch.ensemble.bias.any()
    found = train("ztw", cascade, store, epochs=15, learning_rate=0.01, ensemble_epochs=30, ensemble_learning_rate=0.05)
    assert found[14] < 0.5 * found[0] and found[-1] < found[15]


def test_a_tenth_of_the_rate_from_the_milestone_on():
    assert [rate("step", at, 50, 15) for at in (0, 14.99, 15, 49)] == [1, 1, 0.1, 0.1]
    assert [rate("constant", at, 50, 15) for at in (0, 20)] == [1, 1]
    assert [rate("cosine", at, 50) for at in (0, 25, 50)] == pytest.approx([1, 0.5, 0])


def test_a_loss_that_is_not_finite_names_its_phase_and_option(store):
    with pytest.raises(
        CalexError, match=r"ensembles: the loss became (nan|inf) in epoch \d+; lower recipe\.ensemble_learning_rate"
    ):
        train("ztw", build("ztw"), store, epochs=1, ensemble_epochs=9, ensemble_learning_rate=1e30)


def test_the_published_head_costs_what_its_layers_cost():
    # 64 channels of 8×8: convolution 2·64·64·9·64 = 4,718,592; linear 2·(64·16)·10 = 20,480, and 2·10·10 for the logits before.
    recipe, block = plugins.load("recipes", "ztw"), plugins.complete("heads", {"name": "ztw"}, "head")
    cascade = recipe.build(block, [(64, 8, 8)] * 2, 10, False, {}, 0)
    assert [branch.flops() for branch in cascade.branches] == [(4_739_072, None), (4_739_272, None)]
