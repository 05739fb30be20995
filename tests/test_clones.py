"""What tests copy of the repository: all of it, and nothing that a user put beside it."""

from __future__ import annotations

import subprocess
from pathlib import Path

from clones import own_files


def test_what_a_user_puts_into_the_clone_is_not_copied(tmp_path: Path) -> None:
    """As one who follows the README does before the second command: photos, a config, answers, a cascade, parts of one's own."""
    for name in ("README.md", "calex/a.py", "config/deep/er.yaml", "gone.txt", ".gitignore"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("results/\n")
    subprocess.run("git init --quiet && git add --all", shell=True, cwd=tmp_path, check=True)
    (tmp_path / "gone.txt").unlink()
    for name in (
        "photos/cat/1.png",
        "mine.yaml",
        "answers.md",
        "my_parts/new.py",
        "calex/new.py",
        "config/new.md",
        "results/x.md",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    same = [".gitignore", "README.md", "calex/a.py", "calex/new.py", "config/deep/er.yaml", "config/new.md"]
    assert own_files(repository=tmp_path) == same
    assert own_files("*.md", repository=tmp_path) == ["README.md", "config/new.md"]
