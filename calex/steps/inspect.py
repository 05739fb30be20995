"""Print a feature store for people: sizes, shapes, provenance, class balance, tap statistics."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from calex.features.store import Store, folder_and_split, open_store

SAMPLED = 4  # chunks per tap whose statistics are shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, help="a store, results/…/features/{split}.zarr")


def run(args: argparse.Namespace) -> None:
    store = open_store(*folder_and_split(args.store))
    print("\n".join([*sizes(store), "", *provenance(store), "", *balance(store), "", *statistics(store)]))


def sizes(store: Store) -> list[str]:
    """Images, shapes, dtypes and stored megabytes, one line per array."""
    layout, total = store.layout, sum(entry.bytes for entry in store.entries.values()) / 1e6
    lines = [
        f"{store.path}: {layout.images} images, {layout.views} view(s), {len(layout.taps)} tap(s), {layout.classes} classes",
        f"  {total:.1f} MB in {len(store.entries)} chunks of {layout.rows} images, {layout.precision}, codec {layout.codec}",
    ]
    for name, array in store.arrays.items():
        stored = sum(entry.bytes for where, entry in store.entries.items() if where.startswith(f"{name}/"))
        lines.append(f"  {name:<12} {array.shape!s:<24} {array.dtype.name:<8} {stored / 1e6:10.1f} MB")
    return lines


def provenance(store: Store) -> list[str]:
    """What the store was made from, one line per entry of its manifest."""
    lines = [f"made from (fingerprint of the dump {store.manifest['fingerprint'][:16]})"]
    for name, value in sorted(store.provenance.items()):
        text = str(value)
        lines.append(f"  {name:<20} {text if len(text) <= 100 else text[:97] + '…'}")
    return lines


def balance(store: Store) -> list[str]:
    """Images per class; of more than 20 classes the five smallest and the five largest."""
    counts = np.bincount(store.labels, minlength=store.layout.classes)
    names = store.provenance.get("label_names") or [str(label) for label in range(store.layout.classes)]
    lines = [f"classes: {counts.min()} to {counts.max()} images each"]
    shown = range(len(counts)) if len(counts) <= 20 else [*np.argsort(counts)[:5], *np.argsort(counts)[-5:]]
    for label in shown:
        lines.append(f"  {names[label]!s:<20} {counts[label]:8d}  {counts[label] / counts.sum():6.1%}")
    return lines if len(counts) <= 20 else [*lines[:6], "  …", *lines[6:]]


def statistics(store: Store) -> list[str]:
    """Mean, deviation, share of zeros and largest magnitude of each tap, over a few evenly spaced chunks."""
    numbers = np.unique(np.linspace(0, store.layout.chunks - 1, SAMPLED).astype(int))
    lines = [f"values of view 0, chunks {', '.join(map(str, numbers))}", f"  {'':<12}     mean      std    zeros   largest"]
    for name in [*(f"tap{k}" for k in range(len(store.layout.taps))), "log_softmax"]:
        values = np.concatenate([store.chunk(name, 0, int(n)).astype(np.float32).ravel() for n in numbers])
        lines.append(
            f"  {name:<12} {values.mean():8.3g} {values.std():8.3g} {np.mean(values == 0):8.1%} {np.abs(values).max():9.3g}"
        )
    return lines
