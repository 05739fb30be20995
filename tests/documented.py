"""What the pages tell a reader to type and to write: command lines, and files that a block is the whole of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from clones import own_files
from conftest import REPOSITORY

from calex.config import merged

# A line of code that begins with one of these is a command. In blocks that say they are for a shell, every line is.
PROGRAMS = {
    "apt-get", "bash", "calex", "conda", "cp", "git", "mamba", "mypy", "pip", "pre-commit", "pytest", "python", "ruff", "sacct",
    "sbatch", "scancel", "scontrol", "sinfo", "snakefmt", "snakemake", "squeue",
}  # fmt: skip
SHELLS = {"bash", "sh", "shell", "console"}


@dataclass(frozen=True)
class Block:
    """Code that stands by itself: its language, its text, and the paragraph before it."""

    language: str
    text: str
    before: str


def pages() -> list[Path]:
    """Every page, the README first: the others may lean on what it tells a reader to do. History is no instruction."""
    found = [REPOSITORY / name for name in own_files("*.md") if name != "CHANGELOG.md"]
    return sorted(found, key=lambda page: (page != REPOSITORY / "README.md", page))


def blocks(text: str) -> list[Block]:
    """A page's fenced blocks, and its indented ones, without the indent of the list that they stand in."""
    found, before = [], ""
    lines = [*text.splitlines(), ""]
    at = 0
    while at < len(lines):
        fence = re.match(r"( *)```(\w*)$", lines[at])
        end = at + 1
        if fence:
            while lines[end] != f"{fence[1]}```":
                end += 1
            inside = [line.removeprefix(fence[1]) for line in lines[at + 1 : end]]
            found.append(Block(fence[2], "\n".join(inside) + "\n", before))
            end += 1
        elif re.match(r" {4}\S", lines[at]):
            while re.match(r" {4}\S", lines[end]):
                end += 1
            found.append(Block("", "\n".join(line.strip() for line in lines[at:end]) + "\n", before))
        elif lines[at]:  # a paragraph, up to an empty line or a fence
            while lines[end].strip() and "```" not in lines[end]:
                end += 1
            before = " ".join(line.strip() for line in lines[at:end])
        at = end
    return found


def commands() -> list[str]:
    """Each command line of the pages once, in their order; a line of several with && as its parts, comments left out."""
    found: dict[str, None] = {}
    for page in pages():
        for line in _lines(page.read_text(encoding="utf-8")):
            for part in re.sub(r"(^|\s+)#.*$", "", line).split("&&"):
                if words := part.split():
                    found[" ".join(words)] = None
    return list(found)


def _lines(text: str) -> Iterator[str]:
    standing = blocks(text)
    for block in standing:
        lines = block.text.replace("\\\n", " ").splitlines()
        yield from (line for line in lines if block.language in SHELLS or (block.language == "" and _is_command(line)))
    without = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", without):
        if len(code.split()) > 1 and _is_command(code):  # one word is a name
            yield code


def _is_command(line: str) -> bool:
    return bool(line.split()) and line.split()[0] in PROGRAMS


def written_files() -> dict[str, str]:
    """{path: content} of the files that the pages tell a reader to write.

    A Python block is the file that the paragraph before it names. YAML blocks are parts of one mine.yaml, which is what
    the pages' commands call it.
    """
    files: dict[str, str] = {}
    mine: dict[str, Any] = {}
    for page in pages():
        for block in blocks(page.read_text(encoding="utf-8")):
            if block.language == "python" and (named := re.findall(r"`([\w/]+\.py)`", block.before)):
                files[named[-1]] = block.text
            elif block.language == "yaml" and "mine.yaml" in block.before:
                mine = merged([mine, yaml.safe_load(block.text)])
    return files | {"mine.yaml": yaml.safe_dump(mine)}
