"""Measure one question of speed on this machine: ratios in one run, against stated limits.

`dump`: caching over a bare forward pass. `training`: an epoch from the cache over one that runs the backbone again.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from calex import __version__, devices, plugins
from calex.files import write_json
from calex.progress import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", choices=plugins.names("benchmarks"), help="the question")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count; their median does (default: 5)")
    parser.add_argument("--folder", type=Path, help="where to write stores meanwhile (default: the system's temporary folder)")
    parser.add_argument("--out", type=Path, required=True, help="the file to write (.json)")
    devices.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    device = devices.claim(args.device, args.threads)
    if args.folder is not None:
        args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="calex-benchmark-", dir=args.folder) as folder:
        rows = importlib.import_module(f"calex.benchmarks.{args.name}").measure(
            Path(folder), args.repeats, args.threads, device
        )
    for row in rows:
        limit = "" if row.limit is None else f", limit {row.limit:g}: {'met' if row.met else 'MISSED'}"
        say(f"{row.name}: {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f}{limit}); {row.detail}")
    versions = {"calex": __version__, "torch": torch.__version__, "numpy": np.__version__}
    write_json(
        args.out,
        {
            "rows": [asdict(row) | {"met": row.met} for row in rows],
            "repeats": args.repeats,
            "threads": args.threads,
            "device": devices.describe(device),
            "processor": devices.processor(),
            "versions": versions,
        },
    )
