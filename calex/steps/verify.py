"""Recheck every byte of a feature store against its manifest.

Names each chunk that is missing, truncated, damaged, swapped or not finite; leaves with exit code 2 if there is one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from calex.errors import CalexError
from calex.features.store import folder_and_split, verify


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", type=Path, help="a store, results/…/features/{split}.zarr")


def run(args: argparse.Namespace) -> None:
    problems = verify(*folder_and_split(args.store))
    for problem in problems[:-1]:
        print(problem)
    if problems:
        raise CalexError(f"{problems[-1]}{f' ({len(problems)} problems in all)' if len(problems) > 1 else ''}")
    print(f"{args.store}: complete, every checksum matches")
