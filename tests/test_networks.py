"""A network of the user's own: found, hashed, built, and refused in one line."""

from __future__ import annotations

import sys

import pytest
import yaml
from conftest import REPOSITORY
from torch import nn

from calex import config
from calex.backbones import own
from calex.backbones.build import build
from calex.errors import CalexError
from calex.workflow import sources

NET = """
from torch import nn
from own_blocks import block

def net(classes):
    return nn.Sequential(block(), nn.Flatten(), nn.Linear(4 * 64, classes))

def broken(classes):
    raise ValueError("no such\\nluck")

def text(classes):
    return "a network"

def without():
    return None

number = 3
"""
BLOCKS = "from torch import nn\n\ndef block():\n    return nn.Conv2d(3, 4, 3, padding=1)\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with modules of one's own, which no other test has loaded."""
    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "own_blocks.py").write_text(BLOCKS)
    (tmp_path / "own_failing.py").write_text("import no_such_package\n")
    package = tmp_path / "own_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "nets.py").write_text("from .parts import head\n\ndef net(classes):\n    return head(classes)\n")
    (package / "parts.py").write_text("from torch import nn\n\ndef head(classes):\n    return nn.Conv2d(3, classes, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


def test_a_function_of_the_number_of_classes_is_a_network(folder):
    assert build("own_net:net", "imagenet", 7)[2].out_features == 7
    assert isinstance(build("own_package.nets:net", "imagenet", 7), nn.Conv2d)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ("own_nett:net", "network: no module 'own_nett' in .*; put it there or set PYTHONPATH"),
        ("own_package.nots:net", "network: no module 'own_package.nots'"),
        ("own_net:nett", r"network: .*own_net\.py has no function 'nett', did you mean 'net'\?"),
        ("own_net:number", r"network: .*own_net\.py has no function 'number'"),
        ("own_net:", "network: 'own_net:' is not of the form package.module:function"),
        ("own-net:net", "is not of the form"),
        ("own_net:net:net", "is not of the form"),
        ("own_failing:net", r"own_failing\.py cannot be imported \(ModuleNotFoundError: No module named 'no_such_package'\)"),
        ("own_net:broken", r"own_net:broken fails when it is called with the number of classes, 7 \(ValueError: no such\)"),
        ("own_net:without", r"own_net:without fails .*\(TypeError: without\(\) takes 0"),
        ("own_net:text", "own_net:text gives a str, not a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_one_line(folder, network, message):
    with pytest.raises(CalexError, match=message) as error:
        build(network, "imagenet", 7)
    assert "\n" not in str(error.value)


def test_the_cifar_stem_is_for_resnets(folder):
    with pytest.raises(CalexError, match="'cifar' fits ResNets, not own_net:net"):
        build("own_net:net", "cifar", 7)


def test_a_step_knows_the_source_of_the_network_and_of_what_that_imports(folder):
    before = sources.of_step("train_backbone", {"network": "own_net:net"})
    assert {"own_net.py", "own_blocks.py", "calex/backbones/training.py"} <= set(before)
    assert "own_failing.py" not in before and not any("torch/" in file for file in before)
    (folder / "own_blocks.py").write_text(BLOCKS + "\n# edited\n")
    after = sources.of_step("train_backbone", {"network": "own_net:net"})
    assert {file for file in before if before[file] != after[file]} == {"own_blocks.py"}
    package = own.source_hashes("own_package.nets:net")
    assert set(package) == {"own_package/__init__.py", "own_package/nets.py", "own_package/parts.py"}
    assert "own_net" not in sys.modules and "own_package" not in sys.modules  # nothing was run


def test_of_an_installed_package_only_its_own_files_count(folder, monkeypatch):
    place = folder / "site-packages"
    (place / "own_installed").mkdir(parents=True)
    (place / "own_installed" / "__init__.py").write_text("import own_other\nfrom own_installed import more\n")
    (place / "own_installed" / "more.py").write_text("")
    (place / "own_other.py").write_text("")
    monkeypatch.syspath_prepend(place)
    assert set(own.source_hashes("own_installed:net")) == {"own_installed/__init__.py", "own_installed/more.py"}


def test_torchvisions_networks_have_no_source_here():
    assert not any(file.endswith("resnet.py") for file in sources.of_step("train_backbone", {"network": "resnet18"}))


def test_a_config_with_a_module_that_is_not_there_is_refused(folder):
    content = yaml.safe_load((REPOSITORY / "tests/tiny.yaml").read_text())
    schema = config.read_yaml(REPOSITORY / "workflow/schemas/config.schema.yaml")
    content["backbones"]["resnet18"] |= {"network": "own_nett:net", "stem": "imagenet"}
    with pytest.raises(CalexError, match=r"c\.yaml: backbones\.resnet18\.network: no module 'own_nett'"):
        config.validated(content, schema, "c.yaml")
