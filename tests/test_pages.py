"""The pages of the repository: their links and pictures are there, and tables stand where commands put them."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from clones import own_files
from conftest import REPOSITORY

from calex.steps import quote

LINK = re.compile(
    r"\]\(([^()\s]+(?:\([^()\s]*\)[^()\s]*)*)(?: \"[^\"]*\")?\)|<(?:img|a)\b[^>]*?(?:src|href)=\"([^\"]+)\"|^\[[^\]]+\]: (\S+)",
    re.M,
)
LARGEST_PICTURE = 512 * 1024

QUOTED = {
    "results/studies/digits.md": ("pareto_digits.md",),
    "results/studies/rivals.md": ("pareto_fashion_mnist.md", "pareto_emoji.md", "pareto_digits.md"),
    **{
        f"results/studies/{page}.md": ("pareto_fashion_mnist.md", "pareto_emoji.md")
        for page in ("paper", "policies", "targets")
    },
    "results/studies/heads.md": ("heads_fashion_mnist_heads.md", "heads_emoji_heads.md", "heads_emoji_training.md"),
    "results/studies/benchmarks.md": ("benchmarks.md", "sizes.md"),
}


def unfenced(page: Path) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^( *)(```|~~~).*?^\1\2[^\n]*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The anchors that a site gives to the headings of a page."""
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.*?) *#*$", unfenced(page), re.MULTILINE):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        seen[slug] = seen.get(slug, -1) + 1
    return {f"{slug}-{n}" if n else slug for slug, last in seen.items() for n in range(last + 1)}


def broken(page: Path) -> list[str]:
    """The relative links and pictures of a page that lead nowhere, outside of the repository, or to no heading."""
    lost = []
    words = re.sub(r"(?<!\[)`[^`\n]*`", "", unfenced(page))  # a link in backticks is none
    for groups in LINK.findall(words):
        target = unquote(next(filter(None, groups)))
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page.resolve()
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            lost.append(target)
    return lost


def test_every_relative_link_and_picture_is_there() -> None:
    pages = own_files("*.md")
    assert {"README.md", "config/README.md", "config/extending.md", "results/README.md", *QUOTED} <= set(pages)
    assert {page: lost for page in pages if (lost := broken(REPOSITORY / page))} == {}


def test_what_is_broken_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A `key` of one's own\n\n## Twice\n\n## Twice\n")
    page.write_text(
        "# Here\n[a](other.md) [b](other.md#a-key-of-ones-own) [c](other.md#twice-1) [d](#here) [e](https://x.org/lost.md)\n"
        "![f](lost.png) [g](other.md#twice-2) [h](#there) <img src=\"lost.svg\"> [`i`](lost_too.md)\n"
        "\n```\n[no](link.md)\n```\n\n`[no](link.md)`\n\n[ref]: lost_ref.md\n"
    )  # fmt: skip
    assert broken(page) == ["lost.png", "other.md#twice-2", "#there", "lost.svg", "lost_too.md", "lost_ref.md"]


def test_pictures_are_small() -> None:
    pictures = [*own_files("*.png"), *own_files("*.svg"), *own_files("*.jpg")]
    assert len(pictures) >= 2
    assert {name for name in pictures if (REPOSITORY / name).stat().st_size > LARGEST_PICTURE} == set()


@pytest.mark.parametrize(("page", "name"), [(page, name) for page, names in QUOTED.items() for name in names])
def test_what_a_page_quotes_stands_between_its_marks_and_has_its_command(page: str, name: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert "quoted" in quote.with_quote(text, name, "quoted", page)
    between = text.split(f"<!-- begin {name} -->")[1].split(f"<!-- end {name} -->")[0]
    assert between.count("\n| ") > 3, f"{name} is not quoted in {page}"
    assert "<br>" not in between
    assert f"results/{name}" in text, "the command that puts it there is named"
