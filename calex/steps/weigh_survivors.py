"""Weigh the training images by how likely they are to reach branch k: weights{k}.npy.

A weighting (a file in calex/weightings) turns the exits of branches 1..k−1 into weights; `survivors` calibrates
them on validation at the training margin and multiplies the chances to stay. A record beside the weights, weights{k}.json,
says how many images they rest on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from calex import plugins
from calex.simulation import exits
from calex.system.files import write_json, write_npy
from calex.system.progress import say, warn
from calex.weightings import effective_sample_size
from calex.workflow import settings_argument

# Below this share of the images' number, the weights rest on few of them.
FEW = 0.05

LOWER = "views"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--exits", type=Path, nargs="+", required=True, help="exits1.npz … of every earlier branch, in order")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"weighting": {"name": "survivors", …}, "score", "correct"}',
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="the weights to write (.npy, (V, N) float64); the record goes beside them"
    )


def run(args: argparse.Namespace) -> None:
    chosen = settings_argument.completed(args.settings, weighting="weightings")
    weighting, options = plugins.load("weightings", chosen["weighting"]["name"]), plugins.options_of(chosen["weighting"])
    validation = exits.read(args.exits, "val", chosen["score"])
    training = exits.read_views(args.exits, "train", chosen["score"])
    u = np.stack([weighting.survival(validation, train, chosen["correct"], **options) for train in training])
    weights = weighting.weights(u, **options)
    numbers, warnings = weighting.diagnosis(validation, u, **options) if hasattr(weighting, "diagnosis") else ({}, [])
    worth = effective_sample_size(weights)
    if not u.any():
        warnings.append(
            "no training image survives the branches before: all weigh 1, as without survivor weights; a lower train_margin "
            "keeps more"
        )
    if worth < FEW * weights.size:
        warnings.append(
            f"the weights rest on few images (worth {worth:.0f} of {weights.size}); raise sharpness or floor, or lower train_margin"
        )
    record = {
        "images": weights.shape[1],
        "views": len(weights),
        "survival": float(u.mean()),
        "effective_sample_size": worth,
        **numbers,
    }
    write_npy(args.out, weights)
    write_json(args.out.with_suffix(".json"), record | {"warnings": warnings})
    label = f"weigh-survivors {len(args.exits) + 1}"
    say(f"{label}: survival {u.mean():.3f} on average; the weights are worth {worth:.0f} of {weights.size} images")
    for warning in warnings:
        warn(f"{label}: {warning}")
