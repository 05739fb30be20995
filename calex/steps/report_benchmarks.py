"""Write what the benchmarks measured: one page that stands alone, and beside it the same table in Markdown (.md)."""

from __future__ import annotations

import argparse
from pathlib import Path

from calex.errors import CalexError
from calex.report import benchmarks_page
from calex.system.replacing import replacing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", required=True, type=Path, nargs="+", help="files that `benchmark` wrote (.json)")
    parser.add_argument("--out", required=True, type=Path, help="the page (.html); the table (.md) goes beside it")


def run(args: argparse.Namespace) -> None:
    if args.out.suffix != ".html":
        raise CalexError(f"--out {args.out}: this writes a page, name it .html")
    results, command = benchmarks_page.read(args.results), "snakemake --cores all results/benchmarks.html"
    # The page last: where it is, the table is.
    for suffix, text in (
        (".md", benchmarks_page.markdown(results, command)),
        (".html", benchmarks_page.page(results, command)),
    ):
        with replacing(args.out.with_suffix(suffix)) as partial:
            partial.write_text(text, encoding="utf-8")
