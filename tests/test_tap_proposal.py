"""What can be tapped, which four are proposed, and what `taps: auto` makes of it."""

from __future__ import annotations

import itertools
import json

import pytest
import yaml
from conftest import REPOSITORY, examples, run_snakemake
from hypothesis import example, given
from hypothesis import strategies as st

from calex.__main__ import main
from calex.backbones import proposal
from calex.backbones.build import build
from calex.backbones.shares import SHARES
from calex.backbones.taps import Tap
from calex.workflow.plan import branch_numbers


def tap(name: str, side: int, flops: int) -> Tap:
    return Tap(name, (8, side, side), (8, side, side), flops)


@pytest.mark.parametrize(
    ("network", "stem", "size", "expected"),
    [
        ("resnet18", "cifar", 32, ["layer1.0", "layer1", "layer2", "layer3"]),
        ("resnet18", "imagenet", 32, ["layer1.0", "layer1", "layer2", "layer3.0"]),  # not conv1, at 7 %
        ("resnet50", "imagenet", 64, ["layer1.0", "layer2.1", "layer2", "layer3.2"]),
        ("convnext_tiny", "imagenet", 64, ["features.1.0", "features.4", "features.5.1", "features.5.5"]),
        ("vit_b_32", "imagenet", 64, [f"encoder.layers.encoder_layer_{k}" for k in (0, 3, 5, 7)]),
        ("swin_t", "imagenet", 64, ["features.1", "features.4", "features.5.3", "features.6"]),
    ],
)
def test_an_early_place_and_three_in_the_middle_are_proposed(network, stem, size, expected):
    model = build(network, stem, 10, size)
    taps, flops = proposal.candidates(model, size, 8, network)
    proposed = proposal.propose(taps, flops)
    assert [tap.name for tap in proposed] == expected, [round(tap.flops / flops, 2) for tap in proposed]


def test_what_is_reached_twice_or_gives_no_map_is_not_listed():
    taps, _ = proposal.candidates(build("resnet18", "cifar", 10), 32, 8, "resnet18")
    names = [tap.name for tap in taps]
    assert {"conv1", "relu", "layer1", "layer1.0", "layer1.0.conv1", "avgpool"} <= set(names)
    assert "fc" not in names and "layer1.0.relu" not in names


def cost_by_hand(taps, flops, chosen):  # none of the maps drawn below is the end of a block
    shallowest = min(proposal.depth(one.name) for one in taps if 0.05 <= one.flops / flops <= 0.95)
    total = 0.0
    for k, target in zip(chosen, SHARES, strict=True):
        total += abs(taps[k].flops / flops - target) + 0.1 * (proposal.depth(taps[k].name) - shallowest) + 0.25
    return total


@examples(60)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 2), st.integers(1, 3)), max_size=9))
# The cheaper of the first two may end on the map that comes next.
@example([(5, 0, 1), (6, 0, 2), (7, 0, 1), (7, 0, 1), (8, 0, 1)])
def test_no_other_four_are_nearer(drawn):
    flops, side = 100, 64
    taps = []
    for number, (spent, halvings, levels) in enumerate(sorted(drawn)):
        side = max(side >> (halvings == 2), 1)
        taps.append(tap(".".join([f"m{number}"] * levels), side, spent))
    sensible = [k for k, one in enumerate(taps) if 5 <= one.flops <= 95]
    allowed = [
        four for four in itertools.combinations(sensible, 4) if len({taps[k].flops for k in four}) == 4
    ]  # the same FLOPs: the same map under two names
    found = proposal.propose(taps, flops)
    if not found:
        assert allowed == []
        return
    positions = tuple(taps.index(one) for one in found)
    best = min(cost_by_hand(taps, flops, four) for four in allowed)
    assert cost_by_hand(taps, flops, positions) == pytest.approx(best)


def test_hundreds_of_modules_are_no_burden():
    taps = [tap(f"m{k}", 8, k // 2) for k in range(2000)]
    found = proposal.propose(taps, 1000)
    assert [one.flops for one in found] == [60, 350, 480, 650]


def test_the_verb_prints_a_line_for_the_config(capsys):
    assert main(["taps", "resnet18", "--stem", "cifar", "--pool", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert yaml.safe_load(lines[-1]) == {"taps": ["layer1.0", "layer1", "layer2", "layer3"]}
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


def test_a_network_of_few_maps_is_proposed_fewer(capsys):
    assert main(["taps", "small_networks:three_maps", "--input-size", "16"]) == 0
    assert len(yaml.safe_load(capsys.readouterr().out.splitlines()[-1])["taps"]) == 3


def test_auto_is_what_is_proposed(tmp_path, tiny, capsys):
    settings = {"network": "resnet18", "stem": "cifar", "input_size": 32, "taps": "auto", "pool": 8}
    out, data = str(tmp_path / "taps.json"), str(tiny / "results/digits/images.npz")
    words = ["measure-taps", "--dataset", data, "--out", out, "--settings"]
    assert main([*words, json.dumps(settings)]) == 0
    found = json.loads((tmp_path / "taps.json").read_text())
    assert [tap["name"] for tap in found["taps"]] == ["layer1.0", "layer1", "layer2", "layer3"]
    backbones = {"found": {"taps": "auto"}, "named": {"taps": ["layer1"]}}
    assert [len(branch_numbers({"backbones": backbones}, name)) for name in backbones] == [len(found["taps"]), 1]
    small = settings | {"network": "small_networks:three_maps", "stem": "imagenet", "input_size": 16}
    assert main([*words, json.dumps(small)]) == 2
    assert "taps: auto finds no 4 maps in small_networks:three_maps; name those" in capsys.readouterr().err


def test_a_run_with_auto_plans_four_branches(tmp_path):
    config = yaml.safe_load((REPOSITORY / "tests" / "tiny.yaml").read_text())
    config["backbones"]["resnet18"]["taps"] = "auto"
    (tmp_path / "auto.yaml").write_text(yaml.safe_dump(config))
    done = run_snakemake(tmp_path, "results/pareto_digits.html", "-n", config=tmp_path / "auto.yaml")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "reference/default/seed0/exits4.npz" in done.stdout and "exits5.npz" not in done.stdout
