"""Frozen networks: FLOPs worked out by hand, taps beside a pass by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from calex.backbones.build import build, freeze, parameters
from calex.backbones.taps import measure_taps, pooled, tapping
from calex.backbones.trace import check_network
from calex.errors import CalexError
from calex.system.flops import of

torch.set_num_threads(1)
STAGES = ["layer1", "layer2", "layer3", "layer4"]


def convolution(kernel: int, before: int, after: int, side: int) -> int:
    """k·k·C_in multiply-adds for each of C_out·side² outputs; a multiply-add is two FLOPs."""
    return 2 * kernel * kernel * before * after * side * side


def resnet18_by_hand(first: int, side: int, classes: int) -> dict[str, int]:
    """Cumulative FLOPs to the end of each stage, from those of the first convolution and the side of layer1's map."""
    # Stage 1: two blocks of two 3×3 convolutions. Later ones halve the side and double the width in their first
    # convolution, and a 1×1 convolution brings the shortcut along.
    spent, found, width = first + 4 * convolution(3, 64, 64, side), {}, 64
    found["layer1"] = spent
    for stage in STAGES[1:]:
        side, width = side // 2, 2 * width
        spent += convolution(3, width // 2, width, side) + 3 * convolution(3, width, width, side)
        spent += convolution(1, width // 2, width, side)
        found[stage] = spent
    found["all"] = spent + 2 * 512 * classes
    return found


CIFAR = resnet18_by_hand(convolution(3, 3, 64, 32), 32, 10)
IMAGENET = resnet18_by_hand(convolution(7, 3, 64, 112), 56, 1000)


def test_the_hand_has_counted_well():
    # CIFAR stem, 32 px. First convolution: 2·9·3·64·1024 = 3,538,944. A 3×3 convolution 64 → 64 at 32 px: 75,497,472.
    # Stage 1: four of them. Stages 2-4: 37,748,736 + 3·75,497,472 + 4,194,304 = 268,435,456 each. Linear: 10,240.
    assert list(CIFAR.values()) == [305_528_832, 573_964_288, 842_399_744, 1_110_835_200, 1_110_845_440]
    # ImageNet stem, 224 px. First: 2·49·3·64·12544 = 236,027,904. Stage 1: 4·231,211,008. Stages 2-4: 822,083,584 each.
    assert list(IMAGENET.values()) == [1_160_871_936, 1_982_955_520, 2_805_039_104, 3_627_122_688, 3_628_146_688]


@pytest.mark.parametrize(
    ("stem", "size", "classes", "by_hand", "sides"),
    [("cifar", 32, 10, CIFAR, [32, 16, 8, 4]), ("imagenet", 224, 1000, IMAGENET, [56, 28, 14, 7])],
)
def test_resnet18_costs_what_the_hand_counts(stem, size, classes, by_hand, sides):
    taps, total = measure_taps(build("resnet18", stem, classes), STAGES, size, pool=8)
    assert {tap.name: tap.flops for tap in taps} | {"all": total} == by_hand
    widths = [64, 128, 256, 512]
    assert [tap.full_shape for tap in taps] == [(width, side, side) for width, side in zip(widths, sides, strict=True)]
    assert [tap.shape for tap in taps] == [
        (width, min(side, 8), min(side, 8)) for width, side in zip(widths, sides, strict=True)
    ]


def test_resnet18_has_the_published_number_of_parameters():
    assert parameters(build("resnet18", "imagenet", 1000)) == 11_689_512
    # The CIFAR stem trades 7·7·3·64 weights for 3·3·3·64, and ten classes 990·513 fewer.
    assert parameters(build("resnet18", "cifar", 10)) == 11_689_512 - 40 * 3 * 64 - 990 * 513


def test_a_module_costs_its_convolutions_and_linear_layers():
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 5))
    assert of(module.eval(), 3, 4, 4) == convolution(3, 3, 8, 4) + 2 * 128 * 5


def test_a_pool_is_free_and_null_keeps_the_whole_map():
    whole, total = measure_taps(build("resnet18", "cifar", 10), STAGES, 32, pool=None)
    assert [tap.shape for tap in whole] == [tap.full_shape for tap in whole]
    small, same_total = measure_taps(build("resnet18", "cifar", 10), STAGES, 32, pool=2)
    assert [tap.shape[1:] for tap in small] == [(2, 2)] * 4
    assert ([tap.flops for tap in small], same_total) == ([tap.flops for tap in whole], total)


# Taps.


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    model = build("resnet18", "cifar", 10)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return freeze(model)


def outputs_by_hand(model: nn.Module, images: torch.Tensor, names: list[str]) -> dict[str, torch.Tensor]:
    """Copies of what the modules give at the moment they give it."""
    found: dict[str, torch.Tensor] = {}

    def keep(name: str):
        def hook(module: nn.Module, inputs: object, output: torch.Tensor) -> None:
            found[name] = output.clone()

        return hook

    known = dict(model.named_modules())
    hooks = [known[name].register_forward_hook(keep(name)) for name in names]
    with torch.no_grad():
        model(images)
    for hook in hooks:
        hook.remove()
    return found


def test_pooled_taps_equal_a_pass_by_hand(network):
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad(), tapping(network, STAGES, pool=8) as outputs:
        logits = network(images)
        x = network.relu(network.bn1(network.conv1(images)))
        for stage, tap in zip(STAGES, outputs, strict=True):
            x = getattr(network, stage)(x.clone())
            torch.testing.assert_close(tap, F.adaptive_avg_pool2d(x, min(x.shape[-1], 8)), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logits, network.fc(x.mean((2, 3))), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pool", [None, 32, 8])
@pytest.mark.parametrize("tap", ["conv1", "bn1", "layer1.0.bn1", "layer2.0.downsample"])
def test_a_tap_is_what_its_module_gives_even_if_the_next_one_works_in_place(network, tap, pool):
    images = torch.randn(2, 3, 32, 32)
    expected = outputs_by_hand(network, images, [tap])[tap]
    with torch.no_grad(), tapping(network, [tap], pool) as outputs:
        network(images)
    torch.testing.assert_close(outputs[0], pooled(expected, pool))


def test_pooling_averages_to_at_most_so_many_cells():
    # 4×4 to 2×2: means of the quarters. (0 + 1 + 4 + 5) / 4 = 2.5
    image = torch.arange(16.0).view(1, 1, 4, 4)
    assert pooled(image, 2).tolist() == [[[[2.5, 4.5], [10.5, 12.5]]]]
    for pool in (4, 5, None):
        assert torch.equal(pooled(image, pool), image)
    wide = torch.randn(1, 2, 3, 10)
    assert torch.equal(pooled(wide, 5), F.adaptive_avg_pool2d(wide, (3, 5)))


def test_taps_are_kept_only_inside_the_block(network):
    with torch.no_grad(), tapping(network, ["layer1"], 8) as outputs:
        network(torch.zeros(1, 3, 32, 32))
        assert outputs[0].shape == (1, 64, 8, 8)
        network(torch.zeros(3, 3, 32, 32))
        assert outputs[0].shape == (3, 64, 8, 8)
    with torch.no_grad():
        network(torch.zeros(2, 3, 32, 32))
    assert outputs[0].shape == (3, 64, 8, 8)


@pytest.mark.parametrize(
    ("taps", "said"),
    [
        (["layer1", "layr2"], r"taps: the network has no module 'layr2', did you mean 'layer2'\?"),
        (["zzz"], r"taps: the network has no module 'zzz', the network has: conv1, .*layer1, .*fc"),
        ([""], "taps: the network has no module ''"),
        (["layer2", "layer1"], "taps: the network reaches them as layer1, layer2"),
        (["layer1", "layer1"], "list each once"),
        (["layer1.0.relu"], r"taps: 'layer1\.0\.relu' is reached 2 times in a forward pass"),
        (["fc"], r"taps: 'fc' gives no feature map \(B, C, H, W\)"),
    ],
)
def test_taps_that_cannot_be_are_named(taps, said):
    with pytest.raises(CalexError, match=said) as error:
        measure_taps(build("resnet18", "cifar", 10), taps, 32, 8)
    assert "\n" not in str(error.value)


def test_an_unknown_tap_is_an_error_where_features_are_cached_too(network):
    with pytest.raises(CalexError, match="did you mean 'layer3'"), tapping(network, ["layer33"], 8):
        pass


# Building and freezing.


@pytest.mark.parametrize(
    ("network", "stem", "said"),
    [
        ("resnet81", "imagenet", r"network: unknown name 'resnet81', did you mean 'resnet18'\?"),
        ("squeezenet1_1", "cifar", "stem: 'cifar' fits ResNets, not squeezenet1_1"),
        ("fasterrcnn_resnet50_fpn", "imagenet", "is a torchvision model for detection, not a classifier"),
        ("deeplabv3_resnet50", "imagenet", "is a torchvision model for segmentation, not a classifier"),
        ("r3d_18", "imagenet", "is a torchvision model for video, not a classifier"),
        ("quantized_resnet50", "imagenet", r"for quantization, not a classifier .*did you mean 'resnet50'\?"),
    ],
)
def test_networks_that_cannot_be_are_named(network, stem, said):
    with pytest.raises(CalexError, match=said):
        build(network, stem, 10)


# Other networks than ResNets, at small sizes: taps that a branch of theirs would read.
OTHERS = {
    "resnet50": (32, {"layer1": (256, 8, 8), "layer2": (512, 4, 4), "layer3": (1024, 2, 2)}),
    "mobilenet_v3_small": (64, {"features.1": (16, 16, 16), "features.3": (24, 8, 8), "features.8": (48, 4, 4)}),
    "densenet121": (32, {"features.denseblock1": (256, 8, 8), "features.denseblock2": (512, 4, 4), "features.norm5": (1024, 1, 1)}),
    "convnext_tiny": (32, {"features.1": (96, 8, 8), "features.3": (192, 4, 4), "features.5": (384, 2, 2)}),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_give_what_a_plain_pass_gives(name):
    size, shapes = OTHERS[name]
    torch.manual_seed(0)
    model = freeze(build(name, "imagenet", 5))
    taps, total = measure_taps(model, list(shapes), size, 4, name)
    assert {tap.name: tap.full_shape for tap in taps} == shapes
    spent = [0, *(tap.flops for tap in taps), total]
    assert spent == sorted(set(spent))
    images = torch.randn(2, 3, size, size)
    expected = outputs_by_hand(model, images, list(shapes))
    with torch.no_grad(), tapping(model, list(shapes), 4) as outputs:
        logits = model(images)
    assert logits.shape == (2, 5)
    for tap, found in zip(taps, outputs, strict=True):
        assert tuple(found.shape[1:]) == tap.shape
        torch.testing.assert_close(found, pooled(expected[tap.name], 4))


@pytest.mark.parametrize(
    ("name", "size", "tap", "said"),
    [
        ("swin_t", 64, "flatten", r"taps: 'flatten' gives no feature map \(B, C, H, W\) but \(768,\)"),
        ("vit_b_32", 32, "heads", r"taps: 'heads' gives no feature map \(B, C, H, W\) but \(10,\), nor tokens"),
        ("alexnet", 8, "features.0", "network: alexnet cannot read images of 8 px .*; set another input_size or network"),
        ("inception_v3", 32, "Mixed_5b", "network: inception_v3 cannot read images of 32 px"),
        ("googlenet", 32, "aux1", "taps: 'aux1' is never reached in a forward pass"),
    ],
)
def test_networks_that_cannot_be_tapped_so_say_it_in_a_line(name, size, tap, said):
    with pytest.raises(CalexError, match=said) as error:
        measure_taps(build(name, "imagenet", 10, size), [tap], size, 8, name)
    assert "\n" not in str(error.value)


class Odd(nn.Module):
    """Gives what it is told to give."""

    def __init__(self, give) -> None:
        super().__init__()
        self.convolution, self.give = nn.Conv2d(3, 4, 1), give

    def forward(self, images):
        return self.give(self.convolution(images).mean((2, 3)), self.training)


@pytest.mark.parametrize(
    ("give", "classes", "training", "said"),
    [
        (lambda logits, _: logits, 4, True, None),
        (lambda logits, training: (logits, logits) if training else logits, 4, True, None),  # auxiliary logits
        (lambda logits, _: logits, 5, False, r"network: odd gives \(2, 4\) for 2 images of 5 classes, not \(2, 5\)"),
        (lambda logits, _: {"out": logits}, 4, False, "network: odd gives a dict, not a tensor of logits"),
        (lambda logits, _: (logits, logits), 4, False, "network: odd gives a tuple, not a tensor"),
        (lambda logits, training: {"out": logits} if training else logits, 4, True, "network: odd gives a dict"),
        (lambda logits, _: logits + torch.zeros(4), 4, True, None),  # a tensor of its own: not on the meta device
        (lambda logits, _: logits @ torch.zeros(3, 3), 4, True, "network: odd cannot read images of 8 px"),
    ],
)
def test_a_network_answers_with_logits_or_is_refused(give, classes, training, said):
    if said is None:
        check_network(Odd(give), "odd", 8, classes, training)
        return
    with pytest.raises(CalexError, match=said) as error:
        check_network(Odd(give), "odd", 8, classes, training)
    assert "\n" not in str(error.value)


def test_googlenet_is_trained_with_its_auxiliary_logits():
    check_network(build("googlenet", "imagenet", 10), "googlenet", 32, 10, training=True)


@pytest.mark.parametrize(("stem", "side"), [("cifar", 32), ("small", 16), ("imagenet", 8)])
def test_the_stem_says_how_large_the_first_stage_is(stem, side):
    taps, _ = measure_taps(build("resnet18", stem, 7), ["layer1"], 32, None)
    assert taps[0].full_shape == (64, side, side)


@pytest.mark.parametrize("stem", ["cifar", "small"])
def test_a_stem_for_small_images_is_a_small_convolution_alone(stem):
    model = build("resnet18", stem, 7)
    assert model.conv1.kernel_size == (3, 3)
    assert isinstance(model.maxpool, nn.Identity) and model.fc.out_features == 7


def test_a_frozen_network_does_not_move(network):
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    logits = network(torch.randn(4, 3, 32, 32))
    assert not network.training and not logits.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
