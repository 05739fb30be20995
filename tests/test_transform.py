"""From stored pixels to a network's input, and shifts and flips that any batch order reproduces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from calex.backbones.transform import augment, channel_statistics, to_input
from calex.features.forward import view_key

torch.set_num_threads(1)
CPU = torch.device("cpu")
PLAIN = {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0], "device": CPU}


def noise(count: int, height: int = 5, width: int = 6, channels: int = 2, seed: int = 0) -> torch.Tensor:
    """Images in which every pixel is another number, so that any move can be told."""
    pixels = np.random.default_rng(seed).permutation(count * channels * height * width)
    return torch.from_numpy(pixels.reshape(count, channels, height, width).astype(np.float32))


def moved(image: torch.Tensor, down: int, right: int, mirrored: bool) -> torch.Tensor:
    """Plain loops: pixel (r, c) shows (r + down, c + right), edges repeated, then left and right are swapped."""
    _, height, width = image.shape
    result = torch.empty_like(image)
    for r in range(height):
        for c in range(width):
            row = min(max(r + down, 0), height - 1)
            column = min(max(c + right, 0), width - 1)
            result[:, r, width - 1 - c if mirrored else c] = image[:, row, column]
    return result


def moves(images: torch.Tensor, found: torch.Tensor, shift: int, flip: bool) -> list[tuple[int, int, bool]]:
    """What happened to each image; it fails where none of the moves that are allowed did."""
    reach = range(-shift, shift + 1)
    allowed = [(down, right, mirrored) for down in reach for right in reach for mirrored in (False, True)[: 1 + flip]]
    told = []
    for image, result in zip(images, found, strict=True):
        (move,) = [move for move in allowed if torch.equal(moved(image, *move), result)]
        told.append(move)
    return told


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shift", [1, 2])
def test_shifted_images_equal_plain_loops(shift, flip):
    images = noise(60)
    told = moves(images, augment(images, np.arange(60), key=3, shift=shift, flip=flip), shift, flip)
    assert {down for down, _, _ in told} == {right for _, right, _ in told} == set(range(-shift, shift + 1))
    assert {mirrored for _, _, mirrored in told} == ({False, True} if flip else {False})


def test_flips_alone_do_not_shift():
    images = noise(20)
    told = moves(images, augment(images, np.arange(20), key=0, flip=True), 0, True)
    assert {move[:2] for move in told} == {(0, 0)} and 4 < sum(mirrored for _, _, mirrored in told) < 16


def test_no_shift_and_no_flip_is_the_image_itself():
    images = noise(3)
    assert torch.equal(augment(images, np.arange(3), key=7), images)


@given(st.lists(st.integers(0, 10**9), min_size=1, max_size=10, unique=True), st.integers(0, 2**40), st.randoms())
def test_what_happens_to_an_image_depends_on_its_id_and_the_key_alone(ids, key, shuffler):
    images = noise(len(ids))
    together = augment(images, np.array(ids), key, shift=2, flip=True)
    order = list(range(len(ids)))
    shuffler.shuffle(order)
    shuffled = augment(images[order], np.array(ids)[order], key, shift=2, flip=True)
    assert torch.equal(shuffled, together[order])
    for i in order:
        assert torch.equal(augment(images[i : i + 1], np.array(ids)[i : i + 1], key, shift=2, flip=True)[0], together[i])


def test_every_move_is_about_as_frequent_as_any_other():
    # 3·3·2 = 18 moves over 9000 images: 500 of each, with a standard deviation of 22.
    images = noise(1, 3, 3, 1).expand(9000, 1, 3, 3)
    found = augment(images, np.arange(9000), key=5, shift=1, flip=True)
    seen = [
        (found == moved(images[0], d, r, m)).flatten(1).all(1).sum().item()
        for d in (-1, 0, 1)
        for r in (-1, 0, 1)
        for m in (0, 1)
    ]
    assert sum(seen) == 9000 and min(seen) > 400 and max(seen) < 600


def test_another_key_moves_images_otherwise():
    images = noise(200, 4, 4, 1)
    told = [moves(images, augment(images, np.arange(200), key, shift=1), 1, False) for key in (1, 2, 3)]
    for one, other in ((0, 1), (1, 2), (0, 2)):
        alike = np.mean([a == b for a, b in zip(told[one], told[other], strict=True)])
        assert alike < 0.3  # 1/9 by chance
    follows = np.mean([a == b for a, b in zip(told[0][1:], told[1][:-1], strict=True)])
    assert follows < 0.3, "a key must not merely renumber the images"


def test_a_shift_may_be_wider_than_the_image():
    images = noise(30, 2, 2, 1)
    found = augment(images, np.arange(30), key=0, shift=5)
    assert found.shape == images.shape and all(
        set(f.flatten().tolist()) <= set(i.flatten().tolist()) for f, i in zip(found, images, strict=True)
    )


def test_inputs_by_hand():
    # 255 is white, 1; (1 − 0.5) / 0.25 = 2 and (0 − 0.5) / 0.25 = −2; 51 is 0.2. Each channel has its own numbers.
    pixels = np.array([[[[255, 0, 51]]]], np.uint8)
    found = to_input(pixels, 1, [0.5, 0.5, 0.1], [0.25, 0.25, 0.5], CPU)
    assert found.shape == (1, 3, 1, 1) and found.dtype == torch.float32
    torch.testing.assert_close(found.flatten(), torch.tensor([2.0, -2.0, 0.2]))


def test_grey_is_repeated_and_channels_come_first():
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4, 1)
    found = to_input(pixels, 4, **PLAIN)
    for channel in range(3):
        torch.testing.assert_close(found[:, channel], torch.from_numpy(pixels[..., 0]).float() / 255)
    coloured = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), np.uint8)
    torch.testing.assert_close(
        to_input(coloured, 4, **PLAIN)[1, 2, 3, 0], torch.tensor(coloured[1, 3, 0, 2] / 255, dtype=torch.float32)
    )


def test_images_are_resized_bilinearly():
    # Two columns, 0 and 200, doubled: the new centres lie at −¼, ¼, ¾ and 1¼ of the old ones' distance.
    pixels = np.array([[0, 200], [0, 200]], np.uint8)[None, ..., None]
    found = to_input(pixels, 4, **PLAIN) * 255
    torch.testing.assert_close(found[0, 0], torch.tensor([[0.0, 50.0, 150.0, 200.0]]).expand(4, 4), atol=1e-3, rtol=0)
    # Reduced to a quarter, every pixel counts (antialiasing): one white column in four becomes a quarter, off the edges.
    striped = np.broadcast_to((np.arange(32) % 4 == 0) * 255, (32, 32)).astype(np.uint8)[None, ..., None]
    torch.testing.assert_close(to_input(striped, 8, **PLAIN)[..., 1:-1], torch.full((1, 3, 8, 6), 0.25))
    assert to_input(np.zeros((1, 6, 9, 3), np.uint8), 4, **PLAIN).shape == (1, 3, 4, 4)


def test_an_image_is_the_same_in_any_batch():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 1), np.uint8)
    together = to_input(pixels, 16, **PLAIN)
    for i in range(9):
        assert torch.equal(to_input(pixels[i : i + 1], 16, **PLAIN)[0], together[i])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("chunk", [1, 100, 1000])  # of 150 pixels
def test_statistics_do_not_depend_on_how_images_are_read(channels, chunk):
    pixels = np.random.default_rng(0).integers(0, 256, (10, 3, 5, channels), np.uint8)
    mean, std = channel_statistics(pixels, chunk=chunk)
    flat = np.broadcast_to(pixels, (10, 3, 5, 3)).reshape(-1, 3) / 255
    np.testing.assert_allclose(mean, flat.mean(0), atol=1e-6)
    np.testing.assert_allclose(std, flat.std(0), atol=1e-6)


def test_normalised_training_images_have_mean_zero_and_deviation_one():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 6, 6, 3), np.uint8)
    mean, std = channel_statistics(pixels)
    normal = to_input(pixels, 6, mean, std, CPU)
    torch.testing.assert_close(normal.mean((0, 2, 3)), torch.zeros(3), atol=1e-4, rtol=0)
    torch.testing.assert_close(normal.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4, rtol=0)


def test_a_constant_channel_can_still_be_normalised():
    mean, std = channel_statistics(np.full((3, 2, 2, 1), 51, np.uint8))
    assert mean == [0.2] * 3 and min(std) > 0
    assert torch.isfinite(to_input(np.full((1, 2, 2, 1), 51, np.uint8), 2, mean, std, CPU)).all()


def test_an_augmented_view_repeats_no_epoch_of_the_backbones_training():
    """Their keys are of two streams: an image is moved alike only as often as chance has it, here once in 25."""
    ids = np.arange(3000)
    images = torch.arange(64.0).view(1, 1, 8, 8).expand(3000, 1, 8, 8)

    def moved(key):
        return augment(images, ids, key=key, shift=2)

    views = [moved(view_key(order, view)) for order in (0, 1) for view in (1, 2)]
    epochs = [moved(seed * 1_000_003 + epoch + 1) for seed in (0, 1) for epoch in range(4)]
    for i, view in enumerate(views):
        for other in [*views[:i], *epochs]:
            assert 0.02 < float((view == other).all(dim=(1, 2, 3)).float().mean()) < 0.06
