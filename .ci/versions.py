"""Write the versions to install with: those of this environment, which the tests have passed with, or the lowest allowed.

python .ci/versions.py tested > constraints.txt
python .ci/versions.py lowest > .ci/lowest.txt
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# What old releases need of packages that are not ours to bound, and why.
COMPANIONS: dict[str, str] = {}


def direct(without: str = "") -> list[Requirement]:
    """Everything that pyproject.toml names, the extras but one included; an extra may name others of the project."""
    extras = (lines for extra, lines in PROJECT["optional-dependencies"].items() if extra != without)
    named = [Requirement(line) for lines in (PROJECT["dependencies"], *extras) for line in lines]
    return [one for one in named if one.name != PROJECT["name"]]


def tested() -> Iterator[str]:
    """Each package of this environment that the project needs, by whatever way, without the name of a build (`+cpu`)."""
    if missing := [one.name for one in direct() if not installed(one.name)]:
        raise SystemExit(f"versions: not installed: {', '.join(missing)}; pip install -e '.[test,onnx]' in this environment")
    needed: set[tuple[str, str]] = set()  # packages, each with one of its extras or none
    waiting = direct()
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            one = (canonicalize_name(requirement.name), extra)
            if one in needed or not installed(requirement.name):
                continue
            needed.add(one)
            wanted = map(Requirement, requires(requirement.name) or [])
            waiting += [line for line in wanted if line.marker is None or line.marker.evaluate({"extra": extra})]
    return (f"{name}=={Version(version(name)).public}" for name in sorted({name for name, _ in needed}))


def installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def lowest() -> Iterator[str]:
    """The lower bound of each requirement, and what releases of that age need beside them; ONNX's need a newer torch."""
    for requirement in direct(without="onnx"):
        (bound,) = (one.version for one in requirement.specifier if one.operator == ">=")
        yield f"{requirement.name}=={bound}"
    yield from (f"{line}  # {reason}" for line, reason in COMPANIONS.items())


if __name__ == "__main__":
    (kind,) = sys.argv[1:]
    print(f"# Written by `python .ci/versions.py {kind}`: change pyproject.toml or the environment, not this file.")
    if kind == "tested":
        print(f"# Python {sys.version_info.major}.{sys.version_info.minor}; the tests passed with exactly these.")
    print(*{"tested": tested, "lowest": lowest}[kind](), sep="\n")
