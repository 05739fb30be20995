"""Plugins outside the package: found by their dotted names, checked without being run, hashed with what they import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import REPOSITORY

from calex import plugins
from calex.errors import CalexError
from calex.plugins import contracts
from calex.workflow import sources

SCHEMA_FILE = REPOSITORY / "workflow/schemas/config.schema.yaml"

# One of each kind, which counts on nothing but its contract.
PLUGINS = {
    "datasets": "OPTIONS = {'size': 8}\ndef load(resources, size): ...\n",
    "heads": "OPTIONS = {'depth': 2}\nRANGES = {'depth': '[1, 9]'}\ndef build(channels, height, width, depth): ...\n",
    "targets": "def losses(logits, log_softmax, labels): ...\n",
    "weightings": (
        "SEQUENTIAL = True\nOPTIONS = {'hard': False}\n"
        "def survival(validation, train, correct, **_): ...\ndef weights(u, hard): ...\n"
    ),
    "recipes": "from outside_parts._shared import train\nOPTIONS = {'batch_size': 3}\n",
    "policies": "OPTIONS = {'steps': 2}\ndef parameters(**_): ...\ndef thresholds(exits, parameters, correct, steps): ...\n",
}
SHARED = "def train(branch, job): ...\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A working directory with plugins in it, which no other test has loaded."""
    parts = tmp_path / "outside_parts"
    parts.mkdir()
    for kind, code in PLUGINS.items():
        (parts / f"{kind}.py").write_text(code)
    (parts / "_shared.py").write_text(SHARED)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("outside")]:
        del sys.modules[name]


@pytest.mark.parametrize("kind", PLUGINS)
def test_a_plugin_of_every_kind_is_completed_loaded_and_hashed(folder: Path, kind: str) -> None:
    name = f"outside_parts.{kind}"
    block = plugins.complete(kind, {"name": name}, "there")
    assert block == {"name": name, **plugins.constants(kind, name).get("OPTIONS", {})}
    assert name not in sys.modules
    assert all(hasattr(plugins.load(kind, name), function) for function in contracts.needed(kind, {}))
    key = next(key for key, value in sources.KINDS.items() if value == kind)
    files = set(sources.of_step("verify", {key: block}))
    assert f"outside_parts/{kind}.py" in files
    assert ("outside_parts/_shared.py" in files) == (kind == "recipes")


@pytest.mark.parametrize("kind", contracts.CONTRACTS)
def test_every_plugin_of_the_package_keeps_its_contract(kind: str) -> None:
    assert plugins.names(kind)
    for name in plugins.names(kind):
        contracts.check_source(kind, plugins.source(kind, name), kind)
        plugins.load(kind, name)


def refused(kind: str, block: dict[str, Any], load: bool = False) -> str:
    with pytest.raises(CalexError) as error:
        plugins.complete(kind, block, "methods.m.head")
        if load:
            plugins.load(kind, block["name"])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_module_that_is_not_there_says_where_it_was_looked_for(folder: Path) -> None:
    said = refused("heads", {"name": "nowhere.average"})
    assert said == (
        f"methods.m.head.name: no module 'nowhere.average' in {folder} or on Python's path; put it there or set PYTHONPATH"
    )
    assert refused("heads", {"name": "outside_parts.haeds"}).endswith("; did you mean 'outside_parts.heads'?")
    for name in ("outside_parts.", ".heads", "outside-parts.heads", "../heads", "outside_parts/heads.py"):
        assert "is not of the form folder.file" in refused("heads", {"name": name})
    assert "unknown name 'haed', " in refused("heads", {"name": "haed"})


def test_the_path_of_python_counts_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (folder / "outside_parts").rename(elsewhere / "outside_parts")
    assert "no module" in refused("heads", {"name": "outside_parts.heads"})
    monkeypatch.syspath_prepend(elsewhere)
    assert plugins.source("heads", "outside_parts.heads") == elsewhere / "outside_parts/heads.py"


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("heads", "def bild(): ...", "has no function 'build'; what is named here must have build(channels, height, width, **options)"),
        ("policies", "def parameters(**_): ...", "no function 'thresholds'; what is named here must have parameters(**options) and"),
        ("recipes", "", "has no function 'train'; what is named here must have train(branch, job)"),
        ("recipes", "JOINT = True\ndef train(): ...", "has no function 'build'; what is named here must have build(head, shapes, "),
        ("weightings", "SEQUENTIAL = True", "has no function 'survival' and no 'weights'; what is named here must have survival("),
        ("targets", "x = 1", "has no function 'losses'"),
        ("datasets", "class load_: ...", "has no function 'load'; what is named here must have load(resources, **options)"),
        ("heads", "OPTIONS = dict(a=1)\nbuild = 1", "OPTIONS must be a dict written out in one assignment; it is read without"),
        ("heads", "if True:\n    OPTIONS = {}\nbuild = 1", "OPTIONS must be a dict written out"),
        ("heads", "OPTIONS = {'a': {}}\nbuild = 1", "OPTIONS: 'a': {}; a default is a number, a text, a truth value, a list or None"),
        ("heads", "RANGES = {'a': '[0, 1]'}\nbuild = 1", "RANGES of 'a', which is not among OPTIONS"),
        ("recipes", "OPTIONS = {'epochs': 1}\ntrain = 1", "OPTIONS lacks 'batch_size', which is read outside the plugin too"),
        ("heads", "def build(:", "line 1: invalid syntax"),
    ],
)  # fmt: skip
def test_what_a_kind_needs_is_said_before_anything_is_run(folder: Path, kind: str, code: str, said: str) -> None:
    (folder / "outside_parts/mine.py").write_text(code + "\nraise SystemExit\n")
    error = refused(kind, {"name": "outside_parts.mine"})
    assert said in error and "mine.py" in error


@pytest.mark.parametrize(
    ("kind", "code", "said"),
    [
        ("heads", "build = 3", "has no function 'build'"),
        ("heads", "def build(channels): ...", "'build' that cannot be called so (too many positional arguments)"),
        ("heads", "OPTIONS = {'a': 1}\ndef build(channels, height, width): ...", "with its options a (got an unexpected keyword argument 'a')"),
        ("targets", "def losses(logits, log_softmax, labels, t): ...", "cannot be called so (missing a required argument: 't'"),
        ("targets", "from json import *", "has no function 'losses'"),
        ("targets", "import no_such_module\ndef losses(): ...", "cannot be imported (ModuleNotFoundError: No module named 'no_such"),
    ],
)  # fmt: skip
def test_what_only_running_shows_is_said_when_it_is_loaded(folder: Path, kind: str, code: str, said: str) -> None:
    (folder / "outside_parts/mine.py").write_text(code + "\n")
    assert said in refused(kind, {"name": "outside_parts.mine"}, load=True)


def test_a_name_that_something_else_has_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for top, owner in (("random", "Python"), ("calex", "calex")):
        (folder / top).mkdir()
        (folder / top / "mine.py").write_text(PLUGINS["heads"])
        assert f"begins with the name of a part of {owner} itself" in refused("heads", {"name": f"{top}.mine"})
    installed = folder / "site-packages" / "outside_parts"
    installed.mkdir(parents=True)
    (installed / "__init__.py").write_text("")
    monkeypatch.setattr(sys, "path", [*sys.path, str(installed.parent)])
    assert f"is in {folder} and also installed ({installed}/__init__.py)" in refused("heads", {"name": "outside_parts.heads"})


def test_all_that_a_plugin_imports_of_its_users_counts_and_nothing_that_is_installed(folder: Path) -> None:
    more = folder / "outside_more"
    more.mkdir()
    (more / "__init__.py").write_text("import yaml\n")
    (more / "deep.py").write_text("")
    (folder / "outside_parts/heads.py").write_text(
        PLUGINS["heads"]
        + "import numpy\nfrom . import _shared\nimport outside_more.deep\nfrom calex.policies.budgeted import cut\n"
    )
    before = sources.of_step("train_branch", {"head": {"name": "outside_parts.heads"}})
    outside = {name for name in before if not name.startswith("calex/")}
    assert outside == {"outside_parts/heads.py", "outside_parts/_shared.py", "outside_more/__init__.py", "outside_more/deep.py"}
    assert "calex/policies/budgeted.py" in before
    (more / "deep.py").write_text("x = 1\n")
    after = sources.of_step("train_branch", {"head": {"name": "outside_parts.heads"}})
    assert {name for name in before if before[name] != after[name]} == {"outside_more/deep.py"}


def test_checking_a_config_of_plugins_outside_runs_none_of_them_and_no_torch(folder: Path) -> None:
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    for kind in PLUGINS:
        file = folder / f"outside_parts/{kind}.py"
        file.write_text(f"import torch\n{file.read_text()}\nraise SystemExit\n")
    content["datasets"]["digits"]["source"] = {"name": "outside_parts.datasets", "size": 4}
    content["methods"]["calexnet"] |= {
        key: {"name": f"outside_parts.{kind}"}
        for key, kind in sources.KINDS.items()
        if key in ("recipe", "head", "target", "weighting")
    }
    content["methods"]["calexnet"]["head"]["depth"] = [1, 2]
    content["policies"]["cpm_survivors"] = {"name": "outside_parts.policies"}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content))
    code = (
        "import sys\nfrom calex import config\nfrom calex.workflow import sources\n"
        f"whole = config.validated(config.read_yaml('mine.yaml'), config.read_yaml({str(SCHEMA_FILE)!r}), 'mine.yaml')\n"
        "variant = whole['methods']['calexnet']['variants']['depth=2']\n"
        "print(variant['head'], len(sources.of_step('train_branch', variant)) > 10, 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder)
    assert done.stdout == "{'name': 'outside_parts.heads', 'depth': 2} True False\n", done.stderr
