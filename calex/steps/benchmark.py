"""Measure one question of speed on this machine: ratios in one run, against stated limits.

`dump`: caching over a bare forward pass. `training`: an epoch from the cache over one that runs the backbone again.
`reading`: a store that is streamed from disk over `numpy.load` and over one held in memory. `memory`: what streaming
needs of it. `busy`: training and dumping while another process keeps one core busy, and what `compute: auto` chooses.
`latency`: a cascade's speed-up over what its FLOPs promise.
"""

from __future__ import annotations

import argparse
import importlib
import platform
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calex import __version__, plugins
from calex.benchmarks import Bench, Row, Skipped
from calex.errors import CalexError
from calex.system import devices
from calex.system.files import write_json
from calex.system.progress import say

LOWER = "benchmarks.scale"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=plugins.names("benchmarks"), help="the question")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; their median does (default: 5)")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="share of the usual number of images; the limits are meant for 1 (default: 1)"
    )
    parser.add_argument("--folder", type=Path, help="where to write stores meanwhile (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, required=True, help="the file to write (.json)")
    devices.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    if args.repeats < 1 or not args.scale > 0:
        raise CalexError(f"--repeats {args.repeats} --scale {args.scale:g}: at least one round of something, please")
    device = devices.claim(args.device, args.threads)
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
    measured: dict[str, Any] = {"rows": []}
    with tempfile.TemporaryDirectory(prefix="calex-benchmark-", dir=args.folder) as folder:
        bench = Bench(Path(folder), args.repeats, args.threads, device, args.scale)
        try:
            rows: list[Row] = importlib.import_module(f"calex.benchmarks.{args.name}").measure(bench)
            measured["rows"] = [asdict(row) | {"met": row.met} for row in rows]
        except Skipped as reason:
            rows, measured["skipped"] = [], str(reason)
            say(f"benchmark {args.name}: skipped, {reason}")
    for row in rows:
        limit = "" if row.limit is None else f", limit {row.limit:g}: {'met' if row.met else 'MISSED'}"
        say(f"{row.name}: {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f}{limit}); {row.detail}")
    write_json(
        args.out,
        measured
        | {
            "benchmark": args.name,
            "repeats": args.repeats,
            "scale": args.scale,
            "threads": args.threads,
            "device": devices.describe(device),
            "processor": devices.processor(),
            "versions": {
                "calex": __version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
            },
        },
    )
