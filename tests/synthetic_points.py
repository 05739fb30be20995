"""A plausible table of operating points, made in a blink: images of known difficulty through a simulated cascade."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from itertools import product
from typing import Any

import numpy as np
import polars as pl

from calex.comparison.paired import SCHEMA
from calex.comparison.pareto import BUDGETS, at_budgets, deployable, mark_fronts, over_seeds
from calex.report import page as report_page
from calex.report.tables import sections

TWO = {"calexnet": 1.12, "reference": 1.0}
REACH = {"resnet18": (0.27, 0.51, 0.75), "resnet50": (0.22, 0.48, 0.80)}  # FLOPs to each tap, the backbone being 1
HEAD = 0.012
BACKBONE_ACCURACY = {"resnet18": 0.978, "resnet50": 0.984}
MARGINS = np.linspace(1, -2, 121).round(6)


def operating_points(
    methods: dict[str, float],
    backbones: tuple[str, ...] = ("resnet18",),
    seeds: tuple[int, ...] = (0, 1, 2),
    variants: tuple[str, ...] = ("default",),
    policies: tuple[str, ...] = ("cpm_survivors",),
    dataset: str = "digits",
    images: int = 400,
) -> pl.DataFrame:
    """The table that `pareto` writes. `methods` maps each name to its branches' skill (about 1, more is better)."""
    rows: list[dict[str, Any]] = []
    for backbone, split in product(backbones, ("val", "test")):
        n = images - 3 * (split == "val")
        common = {"dataset": dataset, "backbone": backbone, "split": split, "n": n}
        plain = {"method": "backbone", "variant": "default", "policy": "none", "seed": 0}
        rows.append({**common, **plain, **values(0, {}, BACKBONE_ACCURACY[backbone], 1.0, [0, 0, 0, 1])})
        for (i, method), (j, variant), seed in product(enumerate(methods), enumerate(variants), seeds):
            draw = np.random.default_rng([len(backbone), ord(backbone[-1]), i, j, seed, split == "test"])
            cascade = simulate(draw, n, backbone, methods[method] - 0.05 * j)
            own = {**common, "method": method, "variant": variant, "seed": seed}
            for (k, policy), (point, margin) in product(enumerate(policies), enumerate(MARGINS)):
                measured = measure(cascade, leave(cascade, margin - 0.03 * k), backbone)
                rows.append({**own, "policy": policy, **values(point, {"margin": float(margin)}, *measured)})
            rows.append({**own, "policy": "oracle", **values(0, {}, *measure(cascade, best(cascade), backbone))})
    return mark_fronts(pl.DataFrame(rows))


def paired_with(ours: tuple[str, str], points: pl.DataFrame, half: float = 0.012) -> pl.DataFrame:
    """The table that `compare` writes, with differences as `points` has them and intervals of one width."""
    means = over_seeds(at_budgets(deployable(points), BUDGETS), "test_accuracy")
    mine = (pl.col("method") == ours[0]) & (pl.col("policy") == ours[1])
    rows = means.filter(~mine).join(
        means.filter(mine).select("backbone", "budget", ours_accuracy="mean", ours_seeds="seeds"), on=("backbone", "budget")
    )
    whole = (pl.col("seeds") == pl.col("of")) & (pl.col("ours_seeds") == pl.col("of"))
    difference = pl.when(whole).then(pl.col("mean") - pl.col("ours_accuracy"))
    return rows.select(
        *("dataset", "backbone", "budget", "method", "policy"),
        ours=pl.lit(0),
        ours_method=pl.lit(ours[0]),
        ours_policy=pl.lit(ours[1]),
        n=pl.lit(points.filter(pl.col("split") == "test")["n"].max(), pl.Int64),
        seeds=pl.min_horizontal("seeds", "ours_seeds"),
        of="of",
        accuracy=pl.when(whole).then("mean"),
        ours_accuracy=pl.when(whole).then("ours_accuracy"),
        difference=difference,
        low=difference - half,
        high=difference + half,
    ).cast(SCHEMA)


def values(point: int, parameters: dict[str, float], accuracy: float, cost: float, share: Iterable[float]) -> dict[str, Any]:
    return {
        "point": point,
        "parameters": json.dumps(parameters, separators=(",", ":")),
        "accuracy": float(accuracy),
        "agreement": float(min(1.0, accuracy + 0.01)),
        "flops": float(cost) * 1.1e9,
        "flops_fraction": float(cost),
        "flops_fraction_exit_only": float(cost) * 0.99,
        "exit_share": [float(s) for s in share],
    }


def simulate(draw: np.random.Generator, n: int, backbone: str, skill: float) -> dict[str, np.ndarray]:
    """Scores (n, 3) in [0, 1] and correctness (n, 4; the last is the backbone's) of images of random difficulty."""
    hard = draw.normal(0, 1, n)
    depth = np.array([0.55, 1.0, 1.5]) * skill + 0.5
    clarity = depth - hard[:, None] * 0.8 + draw.normal(0, 0.25, (n, 3))
    right = draw.random((n, 3)) < 1 / (1 + np.exp(-3 * clarity))
    score = 1 / (1 + np.exp(-2 * (clarity - 0.4 + draw.normal(0, 0.45, (n, 3)))))
    plain = np.argsort(np.argsort(-hard + draw.normal(0, 0.3, n))) >= round((1 - BACKBONE_ACCURACY[backbone]) * n)
    # What the backbone gets wrong a branch seldom gets right.
    right &= plain[:, None] | (draw.random((n, 1)) < 0.1)
    return {"score": score, "right": np.column_stack([right, plain])}


def leave(cascade: dict[str, np.ndarray], margin: float) -> np.ndarray:
    """The exit (n,) of each image: all leave at once at margin 1, none at -2."""
    threshold = np.clip((1 - margin) / 3, 0, 1) ** 0.7 * 1.02
    passes = np.column_stack([cascade["score"] >= threshold, np.ones(len(cascade["score"]), dtype=bool)])
    return passes.argmax(axis=1)


def best(cascade: dict[str, np.ndarray]) -> np.ndarray:
    """The earliest correct exit, or the backbone."""
    return np.where(cascade["right"].any(axis=1), cascade["right"].argmax(axis=1), 3)


def measure(cascade: dict[str, np.ndarray], taken: np.ndarray, backbone: str) -> tuple[float, float, np.ndarray]:
    cost = np.array([reach + HEAD * (k + 1) for k, reach in enumerate(REACH[backbone])] + [1 + 3 * HEAD])
    share = np.bincount(taken, minlength=4) / len(taken)
    return cascade["right"][np.arange(len(taken)), taken].mean(), float(share @ cost), share


RUN: dict[str, Any] = {
    "dataset": "digits",
    "seeds": [0, 1, 2],
    "versions": {"calex": "0.1.0", "numpy": "2.3.1", "polars": "1.31.0", "python": "3.11.2", "torch": "2.7.1+cpu"},
    "hardware": {"cpu": "Intel(R) Xeon(R) Processor @ 2.60GHz, 2 cores", "gpu": None},
    "fingerprints": {
        "dataset": "9f86d081884c7d659a2feaa0c55ad015",
        "backbones": {"resnet18": "60303ae22b998861bce3b28f33eec1be"},
    },
    "splits": {"train": 1000, "val": 397, "test": 400},
    "backbones": {
        "resnet18": {
            "parameters": 11173962,
            "flops": 1.1e9,
            "accuracy": {"train": 1.0, "val": 0.982, "test": 0.9775},
            "trained_on": ["train"],
            "taps": ["layer1", "layer2", "layer3"],
            "device": "cpu",
        }
    },
    "config": {
        "datasets": {"digits": {"input_size": 32}},
        "methods": {
            "calexnet": {"head": "prototype", "target": {"name": "kl", "temperature": 4.0}, "weighting": {"sharpness": 0.1}},
            "reference": {"head": "prototype", "target": {"name": "argmax"}, "weighting": None},
        },
    },
    "command": "snakemake --cores all results/pareto_digits.html",
}

# What a run adds to its description when steps found something, and of the images.
WARNINGS: list[dict[str, Any]] = [
    {"text": "the brightest pixel of all is 15 of 255: nearly black", "where": "digits", "count": 1},
    {"text": "12 operating points, of which 2 differ", "where": "resnet18, calexnet · cpm, default, seed 0", "count": 6},
]
AUDIT: dict[str, Any] = {
    "images": 1797,
    "shape": [8, 8, 1],
    "classes": 10,
    "splits": {
        split: {
            "images": images,
            "majority": {"class": "three", "images": images // 5, "share": (images // 5) / images},
            "fewest": {"class": "nine", "images": images // 20},
            "brightest": 255,
            "darkest": 0,
            "constant": 0,
        }
        for split, images in RUN["splits"].items()
    },
    "identical": {
        "test_in_train": 3,
        "val_in_train": 0,
        "test_in_val": 1,
        "repeated": {"train": 7, "val": 0, "test": 0},
        "contradicting": 2,
        "examples": {},
    },
    "skipped": {"not an image": 4},
}


def page(points: pl.DataFrame, run: dict[str, Any] = RUN, paired: pl.DataFrame | None = None) -> str:
    """The page alone, without the pictures beside it."""
    return report_page.page(points, sections(points, paired), run)


def text_of(html: str) -> str:
    """What a reader reads: the page without scripts, styles and tags, in single spaces."""
    html = re.sub(r"(?s)<(script|style|noscript)\b.*?</\1>", " ", html)
    return " ".join(re.sub(r"<[^>]+>", " ", html).split())
