"""A cascade as a folder: weights and thresholds in safetensors, everything else in JSON, a page for people. Nothing is pickled."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn

from calex import __version__
from calex.backbones import build, own
from calex.branches.branch import Branches, built
from calex.deploy import card
from calex.deploy.cascade import Cascade
from calex.deploy.cut import cut
from calex.deploy.record import (
    AGAIN,
    CARD,
    FORMAT,
    LEARNT,
    RECORD,
    THRESHOLDS,
    WEIGHTS,
    points_of,
    read_file,
    read_record,
    sweep_of,
)
from calex.errors import CalexError
from calex.system.files import sha256, write_json
from calex.system.progress import warn
from calex.system.replacing import replacing_folder

PREFIXES = ("network.", "branches.")
GIVEN = "given"  # the name of a network that was given as an object, and has none by which it could be built


def write(cascade: Cascade, folder: str | Path, files: dict[str, bytes] | None = None) -> None:
    """Write a cascade, whole or not at all.

    files: more files by name, such as `stage1.onnx`.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / RECORD).is_file():
        raise CalexError(f"{folder}: exists and is no cascade, which alone would be replaced; give another name or remove it")
    tensors = {
        f"{prefix}{name}": tensor.detach().cpu().contiguous().clone()
        for prefix, module in zip(PREFIXES, (cascade.network, cascade.branches), strict=True)
        for name, tensor in module.state_dict().items()
    }
    tensors[THRESHOLDS] = torch.tensor(cascade.sweep.thresholds, dtype=torch.float64)
    tensors |= {f"{LEARNT}{name}": torch.tensor(value) for name, value in cascade.sweep.learnt.items()}
    contents = {WEIGHTS: save(tensors), **(files or {})}
    record = cascade.about | {
        "format": FORMAT,
        "calex": __version__,
        "points": points_of(cascade.sweep),
        "policy": cascade.sweep.policy,
        "point": cascade.point,
        "files": {name: sha256(content) for name, content in contents.items()},
    }
    with replacing_folder(folder) as partial:
        for name, content in contents.items():
            (partial / name).write_bytes(content)
        (partial / CARD).write_text(card.card(record, folder), encoding="utf-8")
        write_json(partial / RECORD, record)


def read(folder: str | Path, network: nn.Module | None = None) -> Cascade:
    """Load a cascade from its folder, on the CPU.

    Parameters
    ----------
    folder : str or path
        What `python -m calex export` or `save` wrote.
    network : torch.nn.Module, optional
        A network of the same kind, where the cascade was attached to one that was given as an object; its weights are read from
        the folder, and it is left as it is.

    Returns
    -------
    Cascade
        At the operating point that it was saved at.

    Raises
    ------
    CalexError
        If the folder holds no cascade, a file of it is damaged or not the one that was written, or it is of another format.

    Examples
    --------
    In the folder of a finished run:

    >>> cascade = read("results/digits/resnet18/cascade").at(max_flops=0.9)
    >>> bool(cascade.sweep.curves["val_flops_fraction"][cascade.point] <= 0.9)
    True
    """
    folder = Path(folder)
    record = read_record(folder)
    tensors = _tensors(folder, record)
    rules = {name: tensors.pop(name).numpy() for name in list(tensors) if name == THRESHOLDS or name.startswith(LEARNT)}
    sweep = sweep_of(record, rules, folder / WEIGHTS)
    model = _network(record["network"], len(record["classes"]), record["transform"]["size"], network, folder)
    shapes = [tuple(shape) for shape in record["shapes"]]
    branches = built(record["method"], shapes, len(record["classes"]), seed=0)
    for prefix, module in zip(PREFIXES, (model, branches), strict=True):
        _load(
            module, {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}, folder
        )
    if tensors:
        raise CalexError(f"{folder / WEIGHTS}: holds {min(tensors)}, which is no part of a cascade; {AGAIN}")
    return assembled(model, branches, sweep, record, record["point"], check=False)


def assembled(
    network: nn.Module, branches: nn.Module, sweep: Any, record: dict[str, Any], point: int, check: bool = True
) -> Cascade:
    """Cut a network and put a cascade together; `check` compares the stages with the whole network."""
    if type(branches).forward is not Branches.forward:
        raise CalexError(
            f"recipe: {type(branches).__name__} overrides `forward`, which computes all exits at once; override `exit`, one at a time"
        )
    build.freeze(network).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    size, about = record["transform"]["size"], record["network"]
    stages = cut(network, record["taps"], (record["channels"], size, size), about["name"], check)
    about = {
        key: value for key, value in record.items() if key not in ("points", "point", "policy", "files", "format", "calex")
    }
    return Cascade(network, stages, branches, sweep, about, point)  # type: ignore[arg-type]


def _tensors(folder: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    try:
        return load(read_file(folder, WEIGHTS, record))
    except SafetensorError as error:
        raise CalexError(f"{folder / WEIGHTS}: damaged ({error}); {AGAIN}") from None


def _network(about: dict[str, Any], classes: int, size: int, given: nn.Module | None, folder: Path) -> nn.Module:
    """An instance of the network, with whatever weights."""
    name = about["name"]
    if given is not None:
        return build.copied(given)
    if name == GIVEN:
        raise CalexError(
            f"{folder}: its network was given as an object and has no name; give one of the same kind, calex.load(…, network=…)"
        )
    if own.is_own(name) and about["sources"] != own.source_hashes(name):
        warn(f"{folder}: the source of {name} is not what it was when this was exported")
    return build.build(name, about["stem"], classes, size)


def _load(module: nn.Module, tensors: dict[str, torch.Tensor], folder: Path) -> None:
    expected = module.state_dict()
    wrong = sorted(set(tensors) ^ set(expected))
    wrong += [name for name in tensors if name in expected and tensors[name].shape != expected[name].shape]
    if wrong:
        raise CalexError(
            f"{folder / WEIGHTS}: {wrong[0]} is not as in the network that {RECORD} names ({len(tensors)} tensors, "
            f"{len(expected)} wanted); {AGAIN}"
        )
    module.load_state_dict(tensors)
