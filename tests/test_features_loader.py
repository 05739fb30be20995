"""An epoch shows each image once, aligned over taps, whatever the sizes; memory stays bounded when it streams."""

from __future__ import annotations

import threading
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import examples
from feature_stores import Features, dump
from hypothesis import given
from hypothesis import strategies as st

from calex.errors import CalexError
from calex.features.layout import Layout, key
from calex.features.loader import Batch, Loader
from calex.features.store import Store, open_store

RESIDENT, STREAMED = 1 << 40, 0


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The store of a layout and what was put into it; each is written once."""

    @cache
    def made(layout: Layout) -> tuple[Store, Features]:
        folder = tmp_path_factory.mktemp("store")
        return (data := dump(folder, layout)) and (open_store(folder, "train"), data)

    return made


def positions(batches: list[Batch]) -> np.ndarray:
    return np.concatenate([batch.position.numpy() for batch in batches])


def assert_right(batch: Batch, taps: list[int], data: Features) -> None:
    """Every part of a batch belongs to the same images."""
    view, position = batch.view.numpy(), batch.position.numpy()
    for part, k in zip(batch.taps, taps, strict=True):
        np.testing.assert_array_equal(part.numpy(), data.taps[k][(view, position)], strict=True)
    np.testing.assert_array_equal(batch.log_softmax.numpy(), data.log_softmax[(view, position)], strict=True)
    np.testing.assert_array_equal(batch.labels.numpy(), data.labels[(position,)], strict=True)


layouts = st.builds(
    Layout,
    views=st.integers(1, 3),
    images=st.integers(1, 30),
    taps=st.just(((2, 2, 1), (3, 1, 1))),
    classes=st.just(3),
    codec=st.sampled_from(["none", "none", "lz4"]),
    rows=st.integers(0, 12),
)


@examples(80)
@given(
    layout=layouts,
    taps=st.lists(st.integers(0, 1), max_size=3),
    batch_size=st.integers(1, 40),
    budget=st.sampled_from([RESIDENT, STREAMED]),
    pool_bytes=st.integers(0, 2000),
    epoch=st.integers(0, 5),
)
def test_an_epoch_shows_each_image_once(opened, layout, taps, batch_size, budget, pool_bytes, epoch):
    store, data = opened(layout)
    loader = Loader(store, taps, batch_size, 0, memory_budget=budget, pool_bytes=pool_bytes)
    batches = list(loader.epoch(epoch))
    for batch in batches:
        assert_right(batch, taps, data)
        np.testing.assert_array_equal(batch.view, (epoch + batch.position.numpy() // layout.rows) % layout.views)
    assert len(batches) == len(loader)
    assert all(len(batch) == batch_size for batch in batches[: layout.images // batch_size])
    assert sorted(positions(batches)) == list(range(layout.images))
    for view in range(layout.views):
        ordered = list(loader.ordered(view))
        for batch in ordered:
            assert_right(batch, taps, data)
            assert set(batch.view.tolist()) == {view}
        np.testing.assert_array_equal(positions(ordered), np.arange(layout.images))


MANY = Layout(views=3, images=500, taps=((4, 2, 2), (8, 1, 1)), classes=10, rows=20)


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_order_depends_on_seed_and_epoch_only(opened, budget):
    store, _ = opened(MANY)

    def order(seed: int, epoch: int, taps: tuple[int, ...] = (0,)) -> list[int]:
        return positions(list(Loader(store, taps, 32, seed, memory_budget=budget, pool_bytes=20_000).epoch(epoch))).tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


def test_streamed_batches_mix_chunks(opened):
    store, _ = opened(MANY)
    loader = Loader(store, [0], 32, 0, memory_budget=STREAMED, pool_bytes=20_000)
    assert loader.resident is None
    assert loader.pool_chunks >= 5
    for batch in list(loader.epoch(0))[:-1]:
        assert len(set((batch.position // MANY.rows).tolist())) >= 4


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_all_views_in_as_many_epochs(opened, budget):
    store, _ = opened(MANY)
    loader = Loader(store, [1], 64, 0, memory_budget=budget)
    shown = Counter(
        pair
        for epoch in range(MANY.views)
        for batch in loader.epoch(epoch)
        for pair in zip(batch.view.tolist(), batch.position.tolist(), strict=True)
    )
    assert set(shown.values()) == {1}
    assert len(shown) == MANY.views * MANY.images


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="what is mapped is read from Linux's /proc")
def test_resident_chunks_are_shared_pages(opened):
    """Of codec none nothing is copied: each chunk is a read-only map of its file, and holds no file open."""
    store, _ = opened(MANY)
    files = len(list(Path("/proc/self/fd").iterdir()))
    loader = Loader(store, [0, 1], 64, 0)
    maps = Path("/proc/self/maps").read_text()
    assert all(str(store.path / key(name, 2, 24)) in maps for name in ("tap0", "tap1", "log_softmax"))
    assert len(list(Path("/proc/self/fd").iterdir())) == files
    assert not any(chunk.flags.writeable for blocks in loader.resident.blocks[:3] for chunk in blocks)


def test_batches_belong_to_the_caller(opened):
    """Writing to one changes neither the store nor later batches."""
    store, data = opened(MANY)
    for budget in (RESIDENT, STREAMED):
        for batch in Loader(store, [0], 64, 0, memory_budget=budget, pool_bytes=0).epoch(0):
            assert_right(batch, [0], data)
            batch.taps[0].zero_()
            batch.labels.zero_()


@pytest.mark.parametrize("budget", [RESIDENT, STREAMED])
def test_a_damaged_chunk_stops_the_epoch(tmp_path, budget):
    dump(tmp_path, MANY)
    store = open_store(tmp_path, "train")
    with open(tmp_path / "train.zarr" / key("tap0", 0, 7), "r+b") as file:
        file.seek(5)
        file.write(b"!")
    with pytest.raises(CalexError, match=r"tap0/c\.0\.7\.0\.0\.0.*damaged"):
        list(Loader(store, [0], 64, 0, memory_budget=budget, pool_bytes=0).ordered())


def test_an_abandoned_epoch_leaves_no_thread(opened):
    store, _ = opened(MANY)
    batches = Loader(store, [0], 8, 0, memory_budget=STREAMED, pool_bytes=0).epoch(0)
    next(batches)
    batches.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "chunk-reader"]


def anonymous_mb() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1e3


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="anonymous memory is read from Linux's /proc")
@pytest.mark.parametrize("codec", ["none", "lz4"])
def test_streaming_holds_a_few_pools_only(tmp_path, codec):
    """Whatever the store's size: 65 MB pass through three pools of 4 MB."""
    layout = Layout(1, 4_000, ((64, 16, 8),), 10, codec=codec, rows=100)
    dump(tmp_path, layout)
    loader = Loader(open_store(tmp_path, "train"), [0], 100, 0, memory_budget=STREAMED, pool_bytes=4 << 20)
    before = anonymous_mb()
    peak = max(anonymous_mb() for _ in loader.epoch(0))
    assert peak - before < 30


@examples(60)
@given(
    layout=layouts,
    batch_size=st.integers(1, 40),
    budget=st.sampled_from([RESIDENT, STREAMED]),
    pool_bytes=st.integers(0, 2000),
    epoch=st.integers(0, 5),
    seed=st.integers(0, 3),
)
def test_an_epoch_by_weights_shows_each_image_as_often_as_it_weighs(
    opened, layout, batch_size, budget, pool_bytes, epoch, seed
):
    store, data = opened(layout)
    weights = np.random.default_rng(seed).gamma(0.3, size=(layout.views, layout.images)) + 1e-9
    weights[:, ::3] = 0
    weights[:, -1] = 1
    loader = Loader(store, [1], batch_size, seed, memory_budget=budget, pool_bytes=pool_bytes)
    batches = list(loader.epoch(epoch, weights))
    assert sum(map(len, batches)) == layout.images and len(batches) == len(loader)
    for batch in batches:
        assert_right(batch, [1], data)
    view = (epoch + np.arange(layout.images) // layout.rows) % layout.views
    shown = weights[view, np.arange(layout.images)]
    times = np.bincount(positions(batches), minlength=layout.images)
    assert (np.abs(times - shown / shown.mean()) < 1 + 1e-6).all()
    assert not times[shown == 0].any()
    again = positions(list(loader.epoch(epoch, weights)))
    np.testing.assert_array_equal(again, positions(batches))


def test_over_many_epochs_each_image_comes_as_often_as_it_weighs(opened):
    store, _ = opened(Layout(1, 30, ((2, 2, 1),), 3, rows=7))
    weights = np.random.default_rng(0).gamma(1.0, size=(1, 30))
    weights /= weights.mean()
    for budget in (RESIDENT, STREAMED):
        loader = Loader(store, [0], 8, 0, memory_budget=budget, pool_bytes=100)
        times = sum(np.bincount(positions(list(loader.epoch(e, weights))), minlength=30) for e in range(400)) / 400
        np.testing.assert_allclose(times, weights[0], atol=0.12)


def test_equal_weights_show_every_image_once(opened):
    store, _ = opened(Layout(1, 30, ((2, 2, 1),), 3, rows=7))
    loader = Loader(store, [0], 8, 0, memory_budget=STREAMED)
    assert sorted(positions(list(loader.epoch(0, np.ones((1, 30)))))) == list(range(30))
