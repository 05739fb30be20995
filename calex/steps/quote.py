"""Put a Markdown file between its two marks in another one, so that no table on a page is typed by hand.

The marks are lines of their own, with the file's name: `<!-- begin benchmarks.md -->` and
`<!-- end benchmarks.md -->`. What is between them is replaced; without both, nothing is. With --columns only the file's first
table is put there, and of it the first column and the named ones.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from calex.errors import CalexError
from calex.system.progress import say
from calex.system.replacing import replacing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the file to quote (.md)")
    parser.add_argument("--into", type=Path, required=True, help="the file that has its marks")
    parser.add_argument("--columns", nargs="+", metavar="COLUMN", help="only the first table's, such as 70%% 50%% 30%%")


def run(args: argparse.Namespace) -> None:
    text = read(args.file)
    if args.columns:
        text = columns(text, args.columns, str(args.file))
    new = with_quote(read(args.into), args.file.name, text, str(args.into))
    with replacing(args.into) as partial:
        partial.write_text(new, encoding="utf-8")
        partial.chmod(args.into.stat().st_mode)
    say(f"quote: {args.file} into {args.into}")


def read(path: Path) -> str:
    """Read a text file; a CalexError if it is not one in UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise CalexError(f"{path}: not text in UTF-8; quote takes Markdown files") from None


def columns(text: str, names: Sequence[str], where: str) -> str:
    """The first table of a Markdown text with its first column and those of the given names."""
    table = re.search(r"(?:^\|.*\|$\n?)+", text, re.MULTILINE)
    if table is None:
        raise CalexError(f"{where}: holds no table; quote it without --columns")
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table[0].splitlines()]
    known = rows[0][1:]
    if unknown := [name for name in names if name not in known]:
        raise CalexError(f"{where}: the first table has no column {', '.join(unknown)}; known: {', '.join(known)}")
    kept = [0, *(1 + known.index(name) for name in names)]
    lines = [f"| {' | '.join(row[at] for at in kept)} |".replace("|  |", "| |") for row in rows]
    return "\n".join([lines[0], "|---" * len(kept) + "|", *lines[2:]])


def with_quote(page: str, name: str, text: str, where: str) -> str:
    """Return the page with `text` between the marks of that name. where: the page's path, for an error."""
    begin, end = ([*re.finditer(rf"^<!-- {word} {re.escape(name)} -->$", page, re.MULTILINE)] for word in ("begin", "end"))
    if len(begin) != 1 or len(end) != 1 or end[0].start() < begin[0].end():
        fault = f"found {len(begin)} and {len(end)}" if (len(begin), len(end)) != (1, 1) else "they are in the wrong order"
        raise CalexError(f"{where}: needs one line `<!-- begin {name} -->` and, below it, one `<!-- end {name} -->`; {fault}")
    return f"{page[: begin[0].end()]}\n\n{text.strip()}\n\n{page[end[0].start() :]}"
