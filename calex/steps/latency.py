"""Time a cascade beside the network that it came from: the measured speed-up, what FLOPs promise, and where the rest goes.

Both answer the same images in turn, in batches of several sizes. The images are test images of a dataset file, or without one
made up ones, of which as many leave at each exit as of the validation images.
"""

from __future__ import annotations

import argparse
import math
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from calex import __version__, images
from calex.deploy import latency, sweep
from calex.deploy.folder import read
from calex.errors import CalexError
from calex.system import devices
from calex.system.files import write_json
from calex.system.progress import say

LOWER = "--batch-sizes"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cascade", type=Path, help="the folder of a cascade, which `python -m calex export` writes")
    parser.add_argument("--dataset", type=Path, help="a dataset file (images.npz), whose test images are answered")
    parser.add_argument("--images", type=int, default=256, help="how many in a round (default: 256)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 32, 256], help="(default: 1 32 256)")
    parser.add_argument("--rounds", type=int, default=latency.ROUNDS, help="of each that count, at least (default: 5)")
    parser.add_argument("--seconds", type=float, default=latency.SECONDS, help="of each, at least (default: 2)")
    sweep.add_arguments(parser)
    parser.add_argument("--out", type=Path, help="the file to write too (.json)")
    devices.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if min(args.batch_sizes) < 1 or args.images < 1 or args.rounds < 1:
        raise CalexError("--batch-sizes, --images and --rounds: each is at least 1")
    device = devices.claim(args.device, args.threads)
    cascade = read(args.cascade).to(device).fuse()
    cascade = cascade.at(**wish) if (wish := sweep.wished(args)) else cascade
    if args.dataset is not None:
        dataset = images.load(args.dataset)
        inputs = cascade.prepare(dataset.images[dataset.indices("test")[: args.images]])
    else:
        size = cascade.about["transform"]["size"]
        draw = torch.Generator().manual_seed(0)
        inputs = torch.randn((args.images, cascade.about["channels"], size, size), generator=draw).to(device)
        cascade = latency.with_shares(cascade, inputs, cascade.sweep.exit_share[cascade.point])
    print(
        f"{'batch':>6} {'network':>12} {'cascade':>12} {'speed-up':>9} {'range':>14} {'by FLOPs':>9}  where the cascade's time goes"
    )
    rows = []
    for batch in args.batch_sizes:
        (row,) = latency.measure([cascade], inputs, batch, args.rounds, args.seconds)
        where = ", ".join(f"{part} {share:.0%}" for part, share in row.shares.items())
        energy = "; " + ", ".join(f"{name} {joules:.3g} J" for name, joules in row.joules.items()) if row.joules else ""
        spread = f"{row.low:.2f} to {row.high:.2f}"
        print(
            f"{batch:6d} {1e3 * row.network:9.3f} ms {1e3 * row.cascade:9.3f} ms {row.speed_up:9.2f} {spread:>14} {row.predicted:9.2f}"
            f"  {where}{energy}",
            flush=True,
        )
        rows.append(asdict(row))
    say(f"latency: medians an image of {args.images} images, on {devices.describe(device)}, {args.threads} threads")
    if args.out is not None:
        values = {name: float(cascade.sweep.curves[name][cascade.point]) for name in ("val_accuracy", "test_accuracy")}
        about = {
            "device": devices.describe(device), "threads": args.threads, "point": cascade.point, "made": cascade.about["made"],
            **{name: None if math.isnan(value) else value for name, value in values.items()},
            "versions": {"calex": __version__, "python": platform.python_version(), "torch": torch.__version__},
        }  # fmt: skip
        write_json(args.out, about | {"rows": rows})
