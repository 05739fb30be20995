"""Which files a step's hash covers: what it imports, what its config names, and not the other plugins."""

from __future__ import annotations

from pathlib import Path

import pytest

from calex import plugins
from calex.errors import CalexError
from calex.plugins import modules
from calex.plugins.modules import PACKAGE
from calex.workflow import sources

BUILD = "def build(channels, height, width, **options): ...\n"
BRANCH = {"recipe": {"name": "branchwise"}, "head": {"name": "prototype"}, "target": {"name": "kl"}}


def test_a_branch_knows_its_head_and_target_and_no_other() -> None:
    files = set(sources.of_step("train_branch", BRANCH))
    assert {"calex/heads/prototype.py", "calex/targets/kl.py", "calex/branches/branch.py"} <= files
    assert "calex/targets/argmax.py" not in files
    assert not any("backbones" in file or "policies" in file for file in files)


def test_a_plugin_brings_what_it_imports() -> None:
    files = set(sources.of_step("train_branch", BRANCH | {"target": {"name": "mix"}}))
    assert {"calex/targets/mix.py", "calex/targets/kl.py", "calex/targets/labels.py"} <= files


def test_the_report_knows_its_page_and_nothing_of_the_method() -> None:
    files = set(sources.of_step("report", {}))
    assert {
        "calex/report/build.py",
        "calex/report/page.html",
        "calex/report/template.html",
        "calex/comparison/pareto.py",
    } <= files
    assert not any(part in file for file in files for part in ("heads", "recipes", "policies", "cascade"))


def test_the_page_of_benchmarks_knows_its_template_and_not_the_report() -> None:
    files = set(sources.of_step("report_benchmarks", {}))
    assert {"calex/report/benchmarks_page.html", "calex/report/template.html"} <= files
    assert not files & {"calex/report/page.html", "calex/report/claims.py", "calex/report/tables.py"}


def test_no_step_walks_through_the_front_door() -> None:
    for step in (PACKAGE / "steps").glob("[!_]*.py"):
        assert "calex/__main__.py" not in sources.of_step(step.stem, {})


def test_hashes_are_of_content() -> None:
    import hashlib

    content = (PACKAGE / "heads" / "prototype.py").read_bytes()
    assert sources.of_step("train_branch", BRANCH)["calex/heads/prototype.py"] == hashlib.sha256(content).hexdigest()[:12]


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package in the place of this one."""
    folder = tmp_path / "calex"
    (folder / "heads").mkdir(parents=True)
    for name in ("__init__.py", "page.py", "page.html", "heads/__init__.py", "heads/_shared.py", "heads/other.py"):
        (folder / name).write_text("")
    monkeypatch.setattr(sources, "PACKAGE", folder)
    monkeypatch.setattr(modules, "PACKAGE", folder)
    return folder


def closure(package: Path, code: str) -> set[str]:
    (package / "heads/mine.py").write_text(code)
    return {source.name.removeprefix("calex/") for source in modules.closure([modules.inside("heads/mine.py")])}


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("from . import _shared", {"heads/_shared.py"}),
        ("from ._shared import thing", {"heads/_shared.py"}),
        ("from .. import page", {"page.py"}),
        ("from ..heads.other import thing", {"heads/other.py"}),
        ("from calex.heads import other", {"heads/other.py"}),
        ("def later():\n    from calex import page", {"page.py"}),
        ("if TYPE_CHECKING:\n    from calex import page\nelse:\n    from calex.heads import other", {"heads/other.py"}),
        ("import numpy", set()),
    ],
)
def test_relative_imports_are_followed_too(package: Path, code: str, found: set[str]) -> None:
    assert closure(package, code) == found | {"heads/mine.py", "__init__.py", "heads/__init__.py"}


def test_more_dots_than_packages_is_one_line(package: Path) -> None:
    with pytest.raises(CalexError, match=r"mine\.py, line 1: an import goes beyond its package"):
        closure(package, "from ..... import thing")


def test_what_an_editor_leaves_behind_is_not_read(package: Path) -> None:
    for name in ("mine.py.bak", "mine.py~", "mine.pyc", "mine.orig"):
        (package / "heads" / name).write_text("x")
    assert closure(package, "") == {"__init__.py", "heads/__init__.py", "heads/mine.py"}


def test_annotated_constants_are_read_and_a_syntax_error_is_one_line(package: Path) -> None:
    head = package / "heads/annotated.py"
    code = "OPTIONS: dict[str, object] = {'width': 3}\nlater: int\nRANGES: dict = {'width': '[1, inf)'}\n"
    head.write_text(code + BUILD)
    assert plugins.constants("heads", "annotated") == {"OPTIONS": {"width": 3}, "RANGES": {"width": "[1, inf)"}}
    assert plugins.complete("heads", {"name": "annotated"}, "head") == {"name": "annotated", "width": 3}
    for number, code in enumerate(("OPTIONS = {\n'a': = 1}\n", "\nx = '\xe9", "a\0b")):
        broken = package / f"heads/broken{number}.py"
        broken.write_text(code)
        for read in (modules.constants, modules.defined, lambda file: modules.imported(modules.Source(file, package.parent))):
            with pytest.raises(CalexError, match=rf"broken{number}\.py.*correct the file") as caught:
                read(broken)
            assert "\n" not in str(caught.value)
    with pytest.raises(CalexError, match=r"broken0\.py, line 2: "):
        modules.constants(package / "heads/broken0.py")


def test_a_range_that_cannot_be_read_names_the_file(package: Path) -> None:
    (package / "heads/loose.py").write_text("OPTIONS = {'width': 3}\nRANGES = {'width': '1..'}\n" + BUILD)
    with pytest.raises(CalexError, match=r"loose\.py: RANGES of 'width': '1\.\.' is no interval"):
        plugins.complete("heads", {"name": "loose", "width": 4}, "head")


def test_how_checkpoints_are_read_concerns_the_backbone_alone() -> None:
    """An edit of what other libraries' files look like must not cache features again."""
    settings = {"network": "resnet18"}
    reading = {
        f"calex/backbones/{name}.py" for name in ("checkpoint", "formats", "tensor_names", "metadata", "accuracy", "diagnosis")
    }
    assert reading <= set(sources.of_step("train_backbone", settings))
    for step in ("measure_taps", "cache_features", "train_branch", "evaluate"):
        assert not reading & set(sources.of_step(step, settings))
