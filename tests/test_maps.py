"""What a transformer gives, read as maps: how it is found, what it holds, and what attention costs by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import small_networks
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from calex.backbones import maps, proposal
from calex.backbones.build import build, freeze
from calex.backbones.maps import MapLayout, as_map, found, map_shape
from calex.backbones.taps import measure_taps, pooled, tapping
from calex.backbones.trace import trace
from calex.errors import CalexError
from calex.system import flops

torch.set_num_threads(1)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.sampled_from(maps.CLASS_TOKENS))
def test_tokens_are_a_grid_row_by_row(batch: int, side: int, width: int, extra: int, class_token: str) -> None:
    tokens = torch.arange(float(batch * (side * side + extra) * width)).view(batch, side * side + extra, width)
    layout = MapLayout("tokens", extra, class_token)
    read = as_map(tokens, layout)
    assert tuple(read.shape[1:]) == map_shape((1, *tokens.shape[1:]), layout)
    for b in range(batch):
        for row in range(side):
            for column in range(side):
                expected = tokens[b, extra + row * side + column].tolist()
                if class_token == "append":
                    expected += tokens[b, :extra].flatten().tolist()
                assert read[b, :, row, column].tolist() == expected


def test_channels_that_are_last_become_the_first() -> None:
    image = torch.randn(2, 3, 4, 5)
    layout = MapLayout("channels_last")
    assert torch.equal(as_map(image.permute(0, 2, 3, 1), layout), image)
    assert map_shape((1, 4, 5, 3), layout) == (3, 4, 5)
    assert as_map(image) is image


@pytest.mark.parametrize(
    ("shape", "twice", "expected"),
    [
        ((1, 64, 8, 8), (2, 64, 16, 16), MapLayout()),
        ((1, 8, 8, 8), (2, 8, 16, 16), MapLayout()),
        ((1, 8, 8, 8), (2, 16, 16, 8), MapLayout("channels_last")),
        ((1, 96, 96, 96), (2, 192, 192, 96), MapLayout("channels_last")),
        ((1, 3, 3, 96), (2, 5, 5, 96), MapLayout("channels_last")),
        ((1, 64, 8, 8), None, MapLayout()),
        ((1, 8, 8, 64), None, MapLayout("channels_last")),
        ((1, 1280, 1, 1), (2, 1280, 1, 1), MapLayout()),
        ((1, 1, 1, 1280), (2, 1, 1, 1280), MapLayout("channels_last")),
        ((1, 4, 49, 64), (2, 16, 49, 64), None),  # windows of tokens
        ((1, 49, 49, 64), (2, 196, 49, 64), None),
        ((1, 197, 768), None, MapLayout("tokens", 1)),
        ((1, 198, 768), None, MapLayout("tokens", 2)),
        ((1, 196, 768), None, MapLayout("tokens", 0)),
        ((1, 65, 32), (2, 257, 32), MapLayout("tokens", 1)),
        ((1, 32, 64), (2, 32, 256), None),  # channels first, and no square
        ((1, 64, 64), (2, 64, 256), None),  # channels first
        ((1, 261, 768), None, None),  # five registers: to be declared
        ((197, 1, 768), None, None),  # images second
        ((1, 768), (2, 768), None),
        ((1, 3, 4, 4, 4), None, None),
        ((), None, None),
    ],
)
def test_how_an_output_is_read_is_found(
    shape: tuple[int, ...], twice: tuple[int, ...] | None, expected: MapLayout | None
) -> None:
    assert found(shape, twice) == expected
    if expected is not None:
        assert found(shape, twice, "append") == MapLayout(
            expected.kind, expected.extra, "append" if expected.kind == "tokens" else "drop"
        )


def test_what_is_declared_is_taken() -> None:
    assert found((1, 261, 768), None, declared="tokens") == MapLayout("tokens", 5)
    assert found((1, 4, 4, 8), (2, 4, 4, 8), declared="channels_last") == MapLayout("channels_last")
    assert found((1, 8, 8, 8), (2, 16, 16, 8), declared="maps") == MapLayout()
    assert found((1, 8, 8, 8), None, declared="tokens") is found((1, 9, 8), None, declared="maps") is None


# Networks.

FAMILIES = {
    "vit": {"encoder.layers.encoder_layer_1": ("tokens", 1, (32, 4, 4))},
    "deit": {"blocks.1": ("tokens", 2, (32, 4, 4))},
    "swin": {"features.1": ("channels_last", 0, (16, 8, 8)), "features.3": ("channels_last", 0, (32, 4, 4))},
    "convnext": {"features.1": ("maps", 0, (16, 4, 4)), "features.3": ("maps", 0, (24, 2, 2))},
}


@pytest.mark.parametrize("class_token", maps.CLASS_TOKENS)
@pytest.mark.parametrize("name", FAMILIES)
def test_taps_of_transformers_are_what_a_plain_pass_gives(name: str, class_token: str) -> None:
    torch.manual_seed(0)
    model, expected = freeze(getattr(small_networks, name)(5)), FAMILIES[name]
    taps, total = measure_taps(model, list(expected), 16, 2, name, class_token=class_token)
    seen: dict[str, torch.Tensor] = {}
    twin = copy.deepcopy(model)
    for tap in expected:
        twin.get_submodule(tap).register_forward_hook(lambda _, __, output, tap=tap: seen.update({tap: output.clone()}))
    images = torch.randn(3, 3, 16, 16)
    with flops.unfused(), torch.no_grad():
        logits = twin(images)
    layouts = [tap.layout for tap in taps]
    with torch.no_grad(), tapping(model, list(expected), 2, layouts=layouts) as outputs:
        assert torch.allclose(model(images), logits, atol=1e-6)
    for tap, output in zip(taps, outputs, strict=True):
        kind, extra, (channels, height, width) = expected[tap.name]
        channels *= 1 + extra * (class_token == "append")
        assert (tap.layout.kind, tap.layout.extra, tap.full_shape) == (kind, extra, (channels, height, width))
        assert tap.shape == (channels, 2, 2) == tuple(output.shape[1:]) and 0 < tap.flops < total
        whole = seen[tap.name]
        if kind == "tokens":  # by NumPy, as the equation says
            grid = whole[:, extra:].numpy().reshape(3, height, width, -1)
            if class_token == "append":
                more = whole[:, :extra].numpy().reshape(3, 1, 1, -1)
                grid = np.concatenate([grid, np.broadcast_to(more, (3, height, width, more.shape[-1]))], -1)
            whole = torch.from_numpy(np.moveaxis(grid, -1, 1).copy())
        elif kind == "channels_last":
            whole = whole.movedim(-1, 1)
        torch.testing.assert_close(output, pooled(whole, 2))


def test_a_view_of_tokens_is_kept_from_what_the_next_module_overwrites() -> None:
    class InPlace(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return tokens.zero_()

    model = nn.Sequential(nn.Identity(), InPlace())
    for tokens, layout in ((torch.ones(2, 4, 3), MapLayout("tokens")), (torch.ones(2, 2, 2, 3), MapLayout("channels_last"))):
        with tapping(model, ["0"], None, layouts=[layout]) as outputs:
            model(tokens)
        assert torch.equal(outputs[0], torch.ones(2, 3, 2, 2))


def test_what_cannot_be_read_as_a_map_says_what_it_is() -> None:
    model = small_networks.vit(5)
    with pytest.raises(CalexError) as caught:
        measure_taps(model, ["encoder.layers.encoder_layer_1"], 16, 4, layout="maps")
    assert "gives no feature map (B, C, H, W) but (17, 32) that `layout: maps` could mean" in str(caught.value)
    with pytest.raises(
        CalexError, match=r"'heads' gives no feature map .* but \(5,\), nor tokens \(B, T, D\) of a square grid"
    ):
        measure_taps(model, ["heads"], 16, 4)


# FLOPs.


def attention(tokens: int, width: int) -> int:
    """Of one image: queries, keys and values; all scores; their means of values; the projection. A multiply-add is two."""
    return 2 * tokens * width * 3 * width + 2 * (2 * tokens * tokens * width) + 2 * tokens * width * width


def mlp(tokens: int, width: int, hidden: int) -> int:
    return 2 * (2 * tokens * width * hidden)


VIT = 2 * 4 * 4 * 3 * 32 * 16 + 4 * (attention(17, 32) + mlp(17, 32, 64)) + 2 * 32 * 5
DEIT = 2 * 4 * 4 * 3 * 32 * 16 + 4 * (attention(18, 32) + mlp(18, 32, 64)) + 2 * (2 * 32 * 5)
# Windows of 2×2 tokens attend to themselves; merging takes 4·D to 2·D channels.
SWIN = (
    2 * 2 * 2 * 3 * 16 * 64
    + 2 * (16 * attention(4, 16) + mlp(64, 16, 64))
    + 2 * 16 * 64 * 32
    + 2 * (4 * attention(4, 32) + mlp(16, 32, 128))
    + 2 * 4 * 128 * 64
    + 2 * (1 * attention(4, 64) + mlp(4, 64, 256))
    + 2 * 64 * 5
)


@pytest.mark.parametrize(("name", "by_hand"), [("vit", VIT), ("deit", DEIT), ("swin", SWIN)])
def test_attention_costs_what_the_hand_counts(name: str, by_hand: int) -> None:
    model = getattr(small_networks, name)(5).eval()
    assert trace(model, [], 16)[1] == flops.of(model, 3, 16, 16) == flops.of(model.train(), 3, 16, 16) == by_hand
    assert torch.backends.mha.get_fastpath_enabled()  # as before


def test_a_tap_inside_a_transformer_costs_what_was_spent_by_then() -> None:
    taps, total = measure_taps(small_networks.vit(5), [f"encoder.layers.encoder_layer_{k}" for k in range(4)], 16, 4)
    block = attention(17, 32) + mlp(17, 32, 64)
    assert [tap.flops for tap in taps] == [2 * 4 * 4 * 3 * 32 * 16 + (k + 1) * block for k in range(4)]
    assert total == taps[-1].flops + 2 * 32 * 5


@pytest.mark.parametrize(
    ("network", "billions"),
    [("vit_b_16", 17.564), ("swin_t", 4.491), ("maxvit_t", 5.558), ("densenet121", 2.834), ("efficientnet_b0", 0.386)],
)
def test_published_networks_cost_what_is_published(network: str, billions: float) -> None:
    """Multiply-adds, as torchvision's pages give them."""
    with torch.device("meta"):
        model: Any = build(network, "imagenet", 1000)
    assert trace(model, [], 224)[1] / 2e9 == pytest.approx(billions, rel=0.01)


def test_taps_of_transformers_are_proposed() -> None:
    for name, targets in (("vit", (0.28, 0.52, 0.76)), ("deit", (0.28, 0.52, 0.76)), ("swin", (0.33, 0.51, 0.69))):
        taps, total = proposal.candidates(getattr(small_networks, name)(5), 16, 4, name)
        chosen = proposal.propose(taps, total, (0.25, 0.5, 0.75))
        assert [round(tap.flops / total, 2) for tap in chosen] == list(targets), name
        assert all(math.prod(tap.full_shape) > 0 and tap.layout.kind != "maps" for tap in chosen)


@pytest.mark.parametrize(("network", "size"), [("vit_b_32", 64), ("vit_b_16", 32)])
def test_a_network_of_one_size_is_built_for_it(network: str, size: int) -> None:
    with torch.device("meta"):
        taps, _ = measure_taps(build(network, "imagenet", 5, size), ["encoder.layers.encoder_layer_0"], size, 8)
        assert taps[0].full_shape == (768, 2, 2)
        with pytest.raises(
            CalexError, match=rf"network: {network} cannot be built for images of 30 px .*; set another input_size"
        ):
            build(network, "imagenet", 5, 30)
