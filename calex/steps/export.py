"""Write the best of all trained cascades of a backbone as a folder that answers pictures: weights, record, a page for people.

What is best is decided on validation images, by what an image may cost or how often the answer must be right. One method,
variant, policy or seed may be named instead of looking at all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import polars as pl

from calex.deploy import choice, folder, sweep, to_onnx, trained
from calex.errors import CalexError
from calex.simulation.points import MARKED
from calex.system.files import read_json, read_parquet
from calex.system.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", type=Path, default=Path("results"), help="the folder of all results (default: results)")
    parser.add_argument("--dataset", required=True, help="its name; its report must have been made")
    parser.add_argument("--backbone", required=True, help="the name of the network")
    sweep.add_arguments(parser)
    for name in ("method", "variant", "policy"):
        parser.add_argument(f"--{name}", help="look at this one only")
    parser.add_argument("--seed", type=int, help="of the branches (default: the first)")
    parser.add_argument("--onnx", action="store_true", help="also one ONNX file a stage, for onnxruntime without torch")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write; an older cascade there is replaced")


def run(args: argparse.Namespace) -> None:
    description = read_json(args.results / args.dataset / "run.json", "config.seeds")
    config = description["config"]
    points = read_parquet(args.results / f"points_{args.dataset}.parquet", MARKED)
    points = points.filter(pl.col("backbone") == args.backbone)
    if points.is_empty():
        raise CalexError(f"--backbone: no operating points of '{args.backbone}' in the table of {args.dataset}")
    seed = config["seeds"][0] if args.seed is None else args.seed
    wanted = pl.col("seed") == seed
    for name in ("method", "variant", "policy"):
        if (value := getattr(args, name)) is not None:
            wanted &= pl.col(name) == value
    wish = sweep.Wish(**sweep.wished(args))
    chosen = choice.best(points.filter(wanted | (pl.col("method") == "backbone")), wish)
    cascade = trained.cascade_of(args.results, config, points, chosen)
    folder.write(cascade, args.out, to_onnx.exported(cascade) if args.onnx else None)
    curves, point = cascade.sweep.curves, cascade.point
    say(
        f"export {args.dataset} {args.backbone}: {chosen['method']} ({chosen['variant']}) with {chosen['policy']}, seed {seed}, "
        f"point {point}: test accuracy {curves['test_accuracy'][point]:.4f} at {curves['test_flops_fraction'][point]:.3f} of the network, "
        f"whose own is {cascade.sweep.network['test']:.4f}"
    )
