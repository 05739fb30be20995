"""Which files a step's hash covers: what it imports, what its config names, and not the other plugins."""

from __future__ import annotations

from calex import sources
from calex.plugins import PACKAGE

BRANCH = {"recipe": {"name": "branchwise"}, "head": {"name": "prototype"}, "target": {"name": "kl"}}


def test_a_branch_knows_its_head_and_target_and_no_other() -> None:
    files = set(sources.of_step("train_branch", BRANCH))
    assert {"calex/steps/train_branch.py", "calex/heads/prototype.py", "calex/targets/kl.py", "calex/branches.py"} <= files
    assert "calex/targets/argmax.py" not in files
    assert not any("backbones" in file or "calibration" in file for file in files)


def test_a_plugin_brings_what_it_imports() -> None:
    files = set(sources.of_step("train_branch", BRANCH | {"target": {"name": "mix"}}))
    assert {"calex/targets/mix.py", "calex/targets/kl.py", "calex/targets/labels.py"} <= files


def test_the_report_knows_its_page_and_nothing_of_the_method() -> None:
    files = set(sources.of_step("report", {}))
    assert {"calex/report.py", "calex/report.html", "calex/pareto.py"} <= files
    assert not any(part in file for file in files for part in ("heads", "recipes", "calibration", "cascade"))


def test_no_step_walks_through_the_front_door() -> None:
    for step in (PACKAGE / "steps").glob("[!_]*.py"):
        assert "calex/__main__.py" not in sources.of_step(step.stem, {})


def test_hashes_are_of_content() -> None:
    import hashlib

    content = (PACKAGE / "heads" / "prototype.py").read_bytes()
    assert sources.of_step("train_branch", BRANCH)["calex/heads/prototype.py"] == hashlib.sha256(content).hexdigest()[:12]
