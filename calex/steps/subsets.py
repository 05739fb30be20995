"""Say which of the trained branches of a cascade make the best cascade: where branches should sit, and how many.

    python -m calex subsets results/…/METHOD/default/seed0 results/…/METHOD/default/seed1

The branches must have been trained each by itself (recipe `branchwise`, weighting `uniform`), at as many taps as are worth asking
about. Every selection of them is calibrated on validation images by `budgeted`; the best of each size within each budget is
chosen there, and its test accuracy is printed, with the difference to the cascade of all of them, as a table in Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from calex.comparison.pareto import BUDGETS
from calex.comparison.subsets import Best, best_of_each_size
from calex.errors import CalexError
from calex.simulation import exits
from calex.simulation.scores import SCORES

LOWER = "the number of branches"  # where there is not enough memory
MOST = 10  # branches: 1,023 selections


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "seeds", nargs="+", type=Path, help="the folder of each seed of a method, with exits1.npz, exits2.npz, …"
    )
    parser.add_argument("--score", choices=SCORES, default="max_softmax", help="by which images leave (default: max_softmax)")
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS), help="shares of the backbone's FLOPs")


def run(args: argparse.Namespace) -> None:
    paths = [sorted(folder.glob("exits*.npz"), key=lambda path: int(path.stem.removeprefix("exits"))) for folder in args.seeds]
    for folder, files in zip(args.seeds, paths, strict=True):
        if not 2 <= len(files) <= MOST or len(files) != len(paths[0]):
            raise CalexError(f"{folder}: {len(files)} files exits*.npz, expected 2 to {MOST}, and as many for each seed")
    seeds = [tuple(exits.read(files, split, args.score) for split in ("val", "test")) for files in paths]
    found = best_of_each_size([(val, test) for val, test in seeds], args.budgets)
    costs = seeds[0][0].costs
    print(
        "Branches after "
        + ", ".join(f"({k}) {tap / costs.backbone:.0%}" for k, tap in enumerate(costs.to_tap, 1))
        + " of the FLOPs."
    )
    print("\n| branches | " + " | ".join(f"{budget:.0%}" for budget in args.budgets) + " |")
    print("|---" * (1 + len(args.budgets)) + "|")
    for size, row in found.items():
        print(f"| {size} | " + " | ".join(cell(best, size == len(found)) for best in row) + " |")


def cell(best: Best | None, everything: bool) -> str:
    """Write a place of the table: accuracy in percent, the difference to all branches, and which they are."""
    if best is None:
        return "no point fits"
    if everything:
        return f"{100 * best.accuracy:.1f}"
    low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in (best.difference.low, best.difference.high))
    return f"{100 * best.accuracy:.1f} [{low}, {high}] ({', '.join(str(k + 1) for k in best.branches)})"
