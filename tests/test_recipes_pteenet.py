"""PTEEnet: its equations in plain loops, a loss that stays finite where h is 0 or 1, and what a price does."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from joint_cascades import CLASSES, FLOPS, IMAGES, build, costs_of, everything, train, write_store

from calex import plugins
from calex.branches.branch import Branch, predict_log_proba
from calex.errors import CalexError

losses = plugins.load("recipes", "pteenet").losses
probabilities = st.floats(0.01, 0.99)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"))


def loss_by_loops(p: list[float], h: list[float], backbone: float, c: list[float], version: str, price: float) -> float:
    """One image: p[k] and backbone are probabilities of the target class, from the deepest branch to the shallowest."""
    mixture, cost, nll, paid = backbone, 1.0, [], []
    for k in range(len(p) - 1, -1, -1):
        mixture = h[k] * p[k] + (1 - h[k]) * mixture
        cost = h[k] * c[k] + (1 - h[k]) * cost
        nll.append(-math.log(mixture))
        paid.append(cost)
    if version == "v1":
        return nll[-1] + price * paid[-1]
    return sum(n + price * c for n, c in zip(nll, paid, strict=True)) / len(p)


@given(
    st.lists(st.tuples(probabilities, probabilities, st.floats(0, 1.2)), min_size=1, max_size=4),
    probabilities,
    st.sampled_from(["v1", "v2"]),
    st.floats(0, 3),
)
def test_the_loss_equals_plain_loops(branches, backbone, version, price):
    p, h, c = map(list, zip(*branches, strict=True))
    doubt = torch.tensor([[math.log(x / (1 - x))] for x in h])
    found = losses(torch.tensor(p)[:, None].log(), doubt, torch.tensor([backbone]).log(), torch.tensor(c), version, price)
    assert found.shape == (1,)
    assert found.item() == pytest.approx(loss_by_loops(p, h, backbone, c, version, price), rel=1e-4, abs=1e-5)


def test_two_branches_by_hand():
    # P_2 = 0.5·0.8 + 0.5·0.4 = 0.6; P_1 = 0.25·0.2 + 0.75·0.6 = 0.5. C_2 = 0.5·0.6 + 0.5 = 0.8; C_1 = 0.25·0.4 + 0.75·0.8 = 0.7.
    given_ = torch.tensor([[0.2], [0.8]]).log(), torch.tensor([[-math.log(3)], [0.0]]), torch.tensor([0.4]).log()
    cost = torch.tensor([0.4, 0.6])
    assert losses(*given_, cost, "v1", 2.0).item() == pytest.approx(-math.log(0.5) + 2 * 0.7, rel=1e-5)
    halves = -math.log(0.5) + 2 * 0.7 - math.log(0.6) + 2 * 0.8
    assert losses(*given_, cost, "v2", 2.0).item() == pytest.approx(halves / 2, rel=1e-5)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("doubts", [(200.0, 200.0), (-200.0, -200.0), (1e4, -1e4), (-1e4, 1e4)])
def test_the_loss_and_its_gradient_are_finite_where_h_is_0_or_1(version, doubts):
    doubt = torch.tensor([[doubts[0]] * 2, [doubts[1]] * 2], requires_grad=True)
    logits = torch.tensor([[-300.0, 0.0], [-90.0, 0.0]], requires_grad=True)
    found = losses(logits, doubt, torch.tensor([-120.0, -1e-7]), torch.tensor([0.3, 0.6]), version, 0.9)
    found.sum().backward()
    assert all(torch.isfinite(tensor).all() for tensor in (found, doubt.grad, logits.grad))


@pytest.mark.parametrize("target", ["labels", "argmax"])
@pytest.mark.parametrize("version", ["v1", "v2"])
def test_training_minimises_that_loss_over_the_store(store, target, version):
    cascade, batch = build("pteenet"), everything(store)
    with torch.no_grad():
        said = [(logits.softmax(1), logit.sigmoid()) for logits, logit in copy.deepcopy(cascade).train()(batch.taps)]
    head = [branch.flops()[1] for branch in cascade.branches]
    c = [(to_tap + cost) / FLOPS["flops"] for to_tap, cost in zip(FLOPS["flops_to_tap"], head, strict=True)]
    total = 0.0
    for i in range(IMAGES):
        t = int(batch.labels[i]) if target == "labels" else int(batch.log_softmax[i].argmax())
        p, h = [float(each[i, t]) for each, _ in said], [float(each[i]) for _, each in said]
        total += loss_by_loops(p, h, float(batch.log_softmax[i, t].exp()), c, version, 0.7)
    found = train("pteenet", cascade, store, target, version=version, cost_weight=0.7, epochs=1, learning_rate=1e-30)
    assert found == [pytest.approx(total / IMAGES, rel=1e-4)]


def test_a_high_price_sends_everything_out_at_the_first_exit_and_none_keeps_it(store):
    sure = {}
    for price in (0.0, 0.5, 50.0):
        cascade = build("pteenet")
        # So few steps that a branch cannot become better than the backbone by heart.
        train("pteenet", cascade, store, cost_weight=price, epochs=25, learning_rate=0.01, batch_size=8)
        sure[price] = predict_log_proba(cascade, everything(store).taps)[0][1]
    assert sure[50.0].min() > 0.9
    assert sure[0.0].mean() < sure[0.5].mean() < sure[50.0].mean()


def test_it_learns(store):
    cascade, batch = build("pteenet", "prototype", shared=False), everything(store)
    history = train("pteenet", cascade, store, epochs=60, learning_rate=0.02, batch_size=16, schedule="cosine")
    assert history[-1] < 0.7 * history[0]
    (said, confidence), *_ = predict_log_proba(cascade, batch.taps)
    assert said.shape == (IMAGES, CLASSES) and confidence.shape == (IMAGES,)


def test_a_target_that_it_has_no_probability_for_is_refused(store):
    with pytest.raises(CalexError, match="the recipe 'pteenet' learns no target 'kl', known: argmax, labels"):
        train("pteenet", build("pteenet"), store, "kl")


def test_the_published_head_costs_what_its_layers_cost():
    # On 64 channels of 8×8: two convolutions of 2·64·64·9·64 = 4,718,592; linear 2·64·10, and 2·64 for h on the same core.
    alone, with_confidence = Branch({"name": "pteenet"}, (64, 8, 8), 10, True).flops()
    assert (alone, with_confidence) == (9_437_184 + 1_280, 9_437_184 + 1_280 + 128)


def test_shares_are_of_the_backbone_up_to_the_tap_with_that_one_head():
    cascade = build("pteenet")
    head = [branch.flops()[1] for branch in cascade.branches]
    expected = [(to_tap + cost) / FLOPS["flops"] for to_tap, cost in zip(FLOPS["flops_to_tap"], head, strict=True)]
    costs = costs_of(cascade)
    assert (costs.by_exit_alone() / costs.backbone).tolist() == pytest.approx([*expected, 1.0])
