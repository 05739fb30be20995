"""Heads, branches and the recipe that trains them: the equations in plain loops, FLOPs by hand, who learns from what."""

from __future__ import annotations

import copy
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import examples
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from calex.branches.branch import Branch, Branches, predict_log_proba
from calex.branches.fitting import TrainingJob
from calex.errors import CalexError
from calex.plugins import complete, load, options_of

torch.set_num_threads(1)
CPU = torch.device("cpu")


def head(**options: object) -> dict:
    return complete("heads", {"name": "prototype", **options}, "methods.m.head")


def core(channels: int, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return load("heads", "prototype").build(channels, 4, 4, **options_of(head(**options)))


def branch(shape: tuple[int, int, int] = (6, 4, 4), classes: int = 3, shared: bool = False, **options: object) -> Branch:
    torch.manual_seed(0)
    return Branch(head(prototypes=5, **options), shape, classes, shared)


def with_history(module: nn.Module) -> nn.Module:
    """In evaluation mode, with BatchNorm statistics that are not the neutral ones."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            draw = torch.Generator().manual_seed(1)  # the same for both cores of a branch: they have seen the same maps
            part.running_mean.copy_(torch.randn(part.running_mean.shape, generator=draw))
            part.running_var.copy_(torch.rand(part.running_var.shape, generator=draw) + 0.5)
    return module.eval()


def maps(count: int = 7, shape: tuple[int, int, int] = (6, 4, 4), seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def prototype_pooling_by_loops(module: nn.Module, feature_map: np.ndarray, temperature: float, assignment: str) -> list[float]:
    """One image (C, H, W): steps 1 to 4 in the words of the method."""
    state = {name: tensor.double().numpy() for name, tensor in module.state_dict().items()}
    channels, height, width = feature_map.shape
    weight, bias = state["prototypes.weight"][:, :, 0, 0], state["prototypes.bias"]
    assigned, normals = [], []
    for r in range(height):
        for c in range(width):
            normal = [
                (feature_map[i, r, c] - state["norm.running_mean"][i]) / math.sqrt(state["norm.running_var"][i] + 1e-5)
                for i in range(channels)
            ]
            affinity = [
                (sum(w * n for w, n in zip(weight[m], normal, strict=True)) + bias[m]) / temperature for m in range(len(bias))
            ]
            if assignment == "softmax":
                exponents = [math.exp(a - max(affinity)) for a in affinity]
                assigned.append([e / sum(exponents) for e in exponents])
            else:
                assigned.append([max(a, 0.0) for a in affinity])
            normals.append(normal)
    places = height * width
    mean = [sum(a[m] for a in assigned) / places for m in range(len(bias))]
    most = [max(a[m] for a in assigned) for m in range(len(bias))]
    return mean + most + [sum(n[i] for n in normals) / places for i in range(channels)]


@pytest.mark.parametrize("assignment", ["softmax", "relu"])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 5.0])
def test_prototype_pooling_equals_plain_loops(temperature, assignment):
    module = with_history(core(6, prototypes=5, temperature=temperature, assignment=assignment))
    images = maps(3, (6, 3, 2))
    with torch.no_grad():
        found = module(images)
    assert found.shape == (3, module.width) and module.width == 2 * 5 + 6
    expected = [prototype_pooling_by_loops(module, image, temperature, assignment) for image in images.double().numpy()]
    np.testing.assert_allclose(found.numpy(), expected, atol=2e-5)


@examples(30)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.floats(0.05, 20))
def test_every_location_is_assigned_as_a_whole(prototypes, channels, height, width, temperature):
    module = core(channels, prototypes=prototypes, temperature=temperature).eval()
    with torch.no_grad():
        found = module(maps(2, (channels, height, width)))
    mean, most = found[:, :prototypes], found[:, prototypes : 2 * prototypes]
    torch.testing.assert_close(mean.sum(1), torch.ones(2), atol=1e-5, rtol=0)
    assert (most >= mean - 1e-6).all() and (most <= 1 + 1e-6).all() and (mean >= 0).all()


def test_where_a_prototype_is_found_does_not_matter():
    module = with_history(core(6))
    images = maps(2)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(3))
    shuffled = images.flatten(2)[:, :, order].reshape(images.shape)
    with torch.no_grad():
        torch.testing.assert_close(module(images), module(shuffled), atol=1e-5, rtol=1e-5)


def test_a_lower_temperature_assigns_harder():
    sharpest = []
    for temperature in (10.0, 1.0, 0.1):
        module = core(6, prototypes=4, temperature=temperature).eval()
        with torch.no_grad():
            sharpest.append(module(maps())[:, 4:8].amax(1).mean().item())
    assert sharpest[0] < sharpest[1] < sharpest[2]


# A branch: FLOPs by hand, a multiply-add is two.


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(("shape", "classes", "prototypes"), [((64, 8, 8), 10, 32), ((5, 3, 2), 7, 4)])
def test_a_head_costs_its_1x1_convolution_and_its_linear_layers(shape, classes, prototypes, shared):
    channels, height, width = shape
    convolution = 2 * prototypes * channels * height * width
    classifier = 2 * (2 * prototypes + channels) * classes
    confidence = 2 * (2 * prototypes + channels)
    alone, with_confidence = Branch(head(prototypes=prototypes), shape, classes, shared).flops()
    assert alone == convolution + classifier
    assert with_confidence == alone + confidence + (0 if shared else convolution)


def test_the_default_head_on_layer1_of_resnet18_in_numbers():
    # 1×1 convolution: 2·32·64·64 = 262,144. Linear: 128 inputs, 2·128·10 = 2,560. Confidence: 262,144 + 2·128 = 262,400.
    assert Branch(head(), (64, 8, 8), 10, False).flops() == (264_704, 527_104)


def test_counting_changes_no_weight_and_no_statistic():
    one = branch()
    before = copy.deepcopy(one.state_dict())
    one.flops()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, before[name]), name


# Who shares what, and who learns from whom.


def test_cores_are_separate_unless_shared():
    apart, together = branch(), branch(shared=True)
    assert {name.split(".")[0] for name in apart.state_dict()} == {"core", "classifier", "confidence_core", "confidence"}
    assert {name.split(".")[0] for name in together.state_dict()} == {"core", "classifier", "confidence"}
    assert not torch.equal(apart.core.prototypes.weight, apart.confidence_core.prototypes.weight)


def test_cores_that_run_together_are_as_if_each_ran_by_itself() -> None:
    together, alone = branch().train(), branch().train()
    logits, confidence = together(maps())
    core, doubt = alone.core(maps()), alone.confidence_core(maps())
    torch.testing.assert_close(logits, alone.classifier(core))
    torch.testing.assert_close(confidence, alone.confidence(doubt).squeeze(1))
    (logits.sum() + confidence.sum()).backward()
    (alone.classifier(core).sum() + alone.confidence(doubt).sum()).backward()
    for (name, one), other in zip(together.named_parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, msg=name)
    for (name, one), other in zip(together.named_buffers(), alone.buffers(), strict=True):
        torch.testing.assert_close(one, other, msg=name)


@pytest.mark.parametrize("shared", [False, True])
def test_a_branch_answers_from_its_core_and_doubts_from_the_confidence_core(shared):
    one = with_history(branch(shared=shared))
    with torch.no_grad():
        logits, confidence = one(maps())
        core_of_doubt = one.core if shared else one.confidence_core
        torch.testing.assert_close(logits, one.core(maps()) @ one.classifier.weight.T + one.classifier.bias)
        expected = core_of_doubt(maps()) @ one.confidence.weight[0] + one.confidence.bias[0]
        torch.testing.assert_close(confidence, expected)
        torch.testing.assert_close(one.classify(maps()), logits)
    assert logits.shape == (7, 3) and confidence.shape == (7,)


def learners(one: Branch, output: int) -> set[str]:
    one.zero_grad(set_to_none=True)
    one(maps())[output].square().sum().backward()
    return {
        name.split(".")[0] for name, parameter in one.named_parameters() if parameter.grad is not None and parameter.grad.any()
    }


def test_the_confidence_gradient_never_reaches_the_classifier():
    assert learners(branch().train(), 1) == {"confidence_core", "confidence"}
    assert learners(branch().train(), 0) == {"core", "classifier"}
    assert learners(branch(shared=True).train(), 1) == {"core", "confidence"}


def test_answers_come_in_order_and_no_image_depends_on_its_batch():
    one = with_history(branch()).train()  # `predict_log_proba` is in charge of the mode
    images = maps(10)
    parts = [predict_log_proba(Branches([one]), [part])[0] for part in images.split([3, 1, 6])]
    log_probabilities, confidences = (np.concatenate(part) for part in zip(*parts, strict=True))
    one.eval()
    with torch.no_grad():
        logits, confidence = one(images)
    assert log_probabilities.dtype == confidences.dtype == np.float32
    np.testing.assert_allclose(log_probabilities, logits.log_softmax(1).numpy(), atol=1e-5)
    np.testing.assert_allclose(confidences, 1 / (1 + np.exp(-confidence.numpy())), atol=1e-6)
    np.testing.assert_allclose(np.exp(log_probabilities).sum(1), 1, atol=1e-5)
    assert ((confidences >= 0) & (confidences <= 1)).all()


# The recipe. A loader of made-up features stands in for the store.


class Features:
    """N images in V views, in batches of given sizes; in epoch e the view is e mod V."""

    def __init__(self, count: int = 24, sizes: tuple[int, ...] = (24,), views: int = 1, classes: int = 3) -> None:
        self.sizes = sizes
        self.maps = torch.stack([maps(count, seed=10 + view) for view in range(views)])
        self.labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(2))
        self.maps[:, torch.arange(count), self.labels] += 2  # something to learn
        self.log_softmax = torch.randn(views, count, classes, generator=torch.Generator().manual_seed(3)).log_softmax(2)

    def __len__(self) -> int:
        return len(self.sizes)

    def epoch(self, number: int):
        view = number % len(self.maps)
        for position in torch.arange(len(self.labels)).split(self.sizes):
            yield SimpleNamespace(
                taps=[self.maps[view, position].half()],
                log_softmax=self.log_softmax[view, position],
                labels=self.labels[position],
                position=position,
                view=torch.full_like(position, view),
            )


def train(
    one: Branch,
    features: Features,
    weights: np.ndarray | None = None,
    target: str = "labels",
    correct: str = "label",
    **settings_,
):
    settings_ = load("recipes", "branchwise").OPTIONS | settings_
    weights = np.ones(features.log_softmax.shape[:2]) if weights is None else weights
    block = complete("targets", {"name": target}, "methods.m.target")
    job = TrainingJob(features, block, settings_, 0, CPU, "train-branch 1 seed 0", weights=weights, correct=correct)
    return load("recipes", "branchwise").train(one, job)


def loss_by_loops(one: Branch, batch: SimpleNamespace, weights: np.ndarray, correct: str) -> float:
    """The batch mean of w·(cross-entropy on labels + binary cross-entropy of the confidence on "is ŷ correct")."""
    with torch.no_grad():
        logits, confidence = copy.deepcopy(one).train()(batch.taps[0].float())
    total = 0.0
    for i, (row, doubt) in enumerate(zip(logits.tolist(), confidence.tolist(), strict=True)):
        chances = [math.exp(z) / sum(math.exp(y) for y in row) for z in row]
        truth = int(batch.labels[i]) if correct == "label" else int(batch.log_softmax[i].argmax())
        right = row.index(max(row)) == truth
        sure = 1 / (1 + math.exp(-doubt))
        loss = -math.log(chances[int(batch.labels[i])]) - math.log(sure if right else 1 - sure)
        total += weights[int(batch.view[i]), int(batch.position[i])] * loss
    return total / len(logits)


@pytest.mark.parametrize("correct", ["label", "backbone"])
def test_the_loss_equals_plain_loops(correct):
    features, one = Features(views=2), branch()
    weights = np.random.default_rng(0).random((2, 24)) * 2
    expected = [loss_by_loops(one, next(features.epoch(view)), weights, correct) for view in (0, 1)]
    found = train(one, features, weights, correct=correct, epochs=2, learning_rate=0.0)
    assert found == pytest.approx(expected, rel=1e-4)


def test_an_epochs_loss_counts_every_image_once():
    features, one = Features(sizes=(16, 5, 3)), branch()
    parts = [loss_by_loops(one, batch, np.ones((1, 24)), "label") for batch in features.epoch(0)]
    expected = sum(size * part for size, part in zip(features.sizes, parts, strict=True)) / 24
    assert train(one, features, epochs=1, learning_rate=0.0) == [pytest.approx(expected, rel=1e-4)]


def test_an_image_without_weight_teaches_nothing():
    weights = np.ones((1, 24))
    weights[0, [3, 11]] = 0
    trained = []
    for label in (0, 2):
        features, one = Features(), branch()
        features.labels[[3, 11]] = label
        train(one, features, weights, epochs=3)
        trained.append(one.state_dict())
    for name, tensor in trained[0].items():
        assert torch.equal(tensor, trained[1][name]), name


def test_the_classifier_learns_the_same_whatever_the_confidence_head_is_told():
    """With cores apart and a target that knows no labels, labels reach the confidence head alone."""
    trained = []
    for correct in ("label", "backbone"):
        one = branch()
        train(one, Features(), target="kl", correct=correct, epochs=3)
        trained.append(one.state_dict())
    differs = {name.split(".")[0] for name, tensor in trained[0].items() if not torch.equal(tensor, trained[1][name])}
    assert differs == {"confidence_core", "confidence"}


def test_a_branch_learns():
    features, one = Features(count=60, sizes=(30, 30)), branch()
    found = train(one, features, epochs=60, learning_rate=0.02)
    assert len(found) == 60 and found[-1] < 0.3 * found[0]
    ((log_probabilities, confidences),) = predict_log_proba(Branches([one]), [features.maps[0]])
    assert (log_probabilities.argmax(1) == features.labels.numpy()).mean() > 0.95 and confidences.mean() > 0.8


def test_training_is_reproducible():
    trained = []
    for _ in range(2):
        one = branch()
        trained.append((train(one, Features(sizes=(16, 8)), epochs=3), one.state_dict()))
    assert trained[0][0] == trained[1][0]
    assert all(torch.equal(tensor, trained[1][1][name]) for name, tensor in trained[0][1].items())


def test_no_epochs_leave_a_branch_as_it_was():
    one = branch()
    before = copy.deepcopy(one.state_dict())
    assert train(one, Features(), epochs=0) == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in one.state_dict().items())


def test_a_loss_that_is_not_finite_is_an_error_that_says_what_to_do():
    features = Features()
    features.maps[0, 0, 0, 0, 0] = math.nan
    with pytest.raises(CalexError, match=r"train-branch 1 seed 0: the loss became nan in epoch 1; lower recipe\.learning_rate"):
        train(branch(), features, epochs=2)


def test_a_batch_of_one_image_with_one_location_can_be_trained_on():
    """A tap pooled to 1×1 and a last batch of a single image: BatchNorm alone would refuse it."""
    features = Features(sizes=(23, 1))
    features.maps = features.maps[..., :1, :1]
    found = train(branch((6, 1, 1)), features, epochs=2)
    assert all(math.isfinite(loss) for loss in found)


def test_drawing_by_weights_leaves_losses_as_they_are():
    features = Features(sizes=(8, 16))
    asked: list[np.ndarray] = []
    plain = features.epoch
    features.epoch = lambda number, weights=None: asked.append(weights) or plain(number)
    weights = np.random.default_rng(0).random(features.log_softmax.shape[:2])
    drawn, unweighted = branch(), branch()
    assert train(drawn, features, weights, epochs=2, importance="draw") == train(unweighted, features, epochs=2)
    assert [each is weights for each in asked] == [True, True, False, False]


def test_mean_and_most_have_the_gradients_of_autograd():
    together = load("heads", "prototype").MeanMaxPool.apply
    values = torch.rand(3, 2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(together, values)
    mean, most = together(values)
    torch.testing.assert_close(mean, values.mean(-1))
    torch.testing.assert_close(most, values.amax(-1))
