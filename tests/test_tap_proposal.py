"""What can be tapped, and which three are proposed."""

from __future__ import annotations

import itertools

import pytest
import yaml
from conftest import examples
from hypothesis import example, given
from hypothesis import strategies as st

from calex.__main__ import main
from calex.backbones import proposal
from calex.backbones.build import build
from calex.backbones.taps import Tap


def tap(name: str, side: int, flops: int) -> Tap:
    return Tap(name, (8, side, side), (8, side, side), flops)


@pytest.mark.parametrize(
    ("network", "stem", "size", "expected"),
    [
        ("resnet18", "cifar", 32, ["layer1", "layer2", "layer3"]),
        ("resnet18", "imagenet", 32, ["layer1", "layer2", "layer3"]),
        ("resnet50", "imagenet", 64, ["layer1", "layer2", "layer3"]),
        ("convnext_tiny", "imagenet", 64, ["features.1", "features.3", "features.5"]),
        ("vit_b_32", "imagenet", 64, [f"encoder.layers.encoder_layer_{k}" for k in (2, 5, 8)]),
        ("swin_t", "imagenet", 64, ["features.3", "features.5.3", "features.5"]),
    ],
)
def test_stages_are_proposed(network, stem, size, expected):
    model = build(network, stem, 10, size)
    taps, flops = proposal.candidates(model, size, 8, network)
    assert [tap.name for tap in proposal.propose(taps, flops)] == expected


def test_what_is_reached_twice_or_gives_no_map_is_not_listed():
    taps, _ = proposal.candidates(build("resnet18", "cifar", 10), 32, 8, "resnet18")
    names = [tap.name for tap in taps]
    assert {"conv1", "relu", "layer1", "layer1.0", "layer1.0.conv1", "avgpool"} <= set(names)
    assert "fc" not in names and "layer1.0.relu" not in names


def test_the_end_of_a_stage_is_the_last_of_its_resolution_among_its_like():
    taps = [tap("a", 8, 10), tap("b.0", 4, 20), tap("b.1", 4, 30), tap("b", 4, 30), tap("c.0", 2, 40), tap("c", 2, 50)]
    ends = [one.name for k, one in enumerate(taps) if proposal.ends_a_stage(taps, k)]
    # b.1 is followed by b, of the same resolution; c.0 by c.
    assert ends == ["a", "b", "c"]


def cost_by_hand(taps, flops, chosen):
    shallowest = min(proposal.depth(one.name) for one in taps if 0.05 <= one.flops / flops <= 0.95)
    total = 0.0
    for k, target in zip(chosen, proposal.TARGETS, strict=True):
        total += abs(taps[k].flops / flops - target) + 0.1 * (proposal.depth(taps[k].name) - shallowest)
        total += 0.1 * (not proposal.ends_a_stage(taps, k))
    return total


@examples(60)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 2), st.integers(1, 3)), max_size=9))
@example([(5, 0, 1), (6, 0, 2), (7, 0, 1), (7, 0, 1)])  # the cheaper of the first two may end on the map that comes next
def test_no_other_three_are_nearer(drawn):
    flops, side = 100, 64
    taps = []
    for number, (spent, halvings, levels) in enumerate(sorted(drawn)):
        side = max(side >> (halvings == 2), 1)
        taps.append(tap(".".join([f"m{number}"] * levels), side, spent))
    sensible = [k for k, one in enumerate(taps) if 5 <= one.flops <= 95]
    allowed = [
        three for three in itertools.combinations(sensible, 3) if len({taps[k].flops for k in three}) == 3
    ]  # the same FLOPs: the same map under two names
    found = proposal.propose(taps, flops)
    if not found:
        assert allowed == []
        return
    positions = tuple(taps.index(one) for one in found)
    best = min(cost_by_hand(taps, flops, three) for three in allowed)
    assert cost_by_hand(taps, flops, positions) == pytest.approx(best)


def test_hundreds_of_modules_are_no_burden():
    taps = [tap(f"m{k}", 8, k // 2) for k in range(2000)]
    found = proposal.propose(taps, 1000)
    assert [one.flops for one in found] == [250, 500, 750]


def test_the_verb_prints_a_line_for_the_config(capsys):
    assert main(["taps", "resnet18", "--stem", "cifar", "--pool", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert yaml.safe_load(lines[-1]) == {"taps": ["layer1", "layer2", "layer3"]}
    # layer1 of ResNet18 with the CIFAR stem: 305,528,832 of 1,110,845,440 FLOPs; 64·4·4 halves are 2048 bytes.
    (row,) = [line for line in lines if line.startswith("* layer1 ")]
    assert row.split() == ["*", "layer1", "64×32×32", "64×4×4", "2,048", "27.5%"]
    assert not any("layer1.0.conv1" in line for line in lines)
    assert main(["taps", "resnet18", "--stem", "cifar", "--all"]) == 0
    assert "layer1.0.conv1" in capsys.readouterr().out


def test_the_verb_refuses_in_one_line(capsys):
    for arguments, said in ((["resnet81"], "did you mean 'resnet18'"), (["resnet18", "--input-size", "0"], "--input-size: 0")):
        assert main(["taps", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
