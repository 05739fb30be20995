"""Write the report: one page that stands alone; beside it the chart (.svg, .png), its fronts (.csv), the tables (.md)."""

from __future__ import annotations

import argparse
from pathlib import Path

from calex.errors import CalexError
from calex.report.build import build
from calex.report.inputs import read_paired, read_points
from calex.system.files import read_json
from calex.system.replacing import replacing

LOWER = "the number of methods, variants or seeds of the dataset"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--points", required=True, type=Path, help="table of operating points of one data set (.parquet)")
    parser.add_argument("--run", required=True, type=Path, help="what was run, as `pareto` writes it (.json)")
    parser.add_argument("--paired", type=Path, help="what `compare` writes (.parquet); without it nothing is compared by image")
    parser.add_argument(
        "--latency", nargs="+", type=Path, default=[], help="wall times, as `latency` writes them for each backbone (.json)"
    )
    parser.add_argument("--out", required=True, type=Path, help="the page (.html); .svg, .png, .csv and .md go beside it")


def run(args: argparse.Namespace) -> None:
    if args.out.suffix != ".html":
        raise CalexError(f"--out {args.out}: a report is a page, name it .html")
    description = read_json(args.run)
    if not isinstance(description, dict):
        raise CalexError(f"{args.run}: expected a JSON object that describes the run, got a {type(description).__name__}")
    for part in ("audit", "backbones", "config", "fingerprints", "hardware", "splits", "threads", "versions"):
        if not isinstance(description.get(part, {}), dict):
            raise CalexError(f"{args.run}: '{part}' is not an object; rerun the step `pareto`")
    if not isinstance(description.get("warnings", []), list):
        raise CalexError(f"{args.run}: 'warnings' is not a list; rerun the step `pareto`")
    times = [read_json(path, "rows", "made", "device", "threads") for path in args.latency]
    points = read_points(args.points)
    description["latency"] = {each["made"].get("backbone", ""): each for each in times}
    report = build(points, description, read_paired(args.paired, points) if args.paired else None)
    # The page last: where it is, the others are.
    for suffix in (".csv", ".md", ".svg", ".png", ".html"):
        content = getattr(report, suffix[1:])
        with replacing(args.out.with_suffix(suffix)) as partial:
            partial.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
