"""The file of published weights in torch's own cache folder: fetched, read and put into a network."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calex.backbones import formats
from calex.backbones.published import Entry
from calex.backbones.vision import models
from calex.errors import CalexError, one_line
from calex.system.files import sha256
from calex.system.progress import say


def path_of(entry: Entry) -> Path:
    """Where torch keeps the file: `$TORCH_HOME/hub/checkpoints`, by default in the user's cache folder."""
    return Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]


def fetch(entry: Entry) -> Path:
    """Return the file, downloaded by torch where it is not there; CalexError that says what to put where if that fails."""
    path = path_of(entry)
    if not path.exists():
        say(f"weights: downloading {entry.url} to {path}")
        digest = re.search(r"-([a-f0-9]+)\.", path.name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(entry.url, str(path), digest[1] if digest else None, progress=False)
        except Exception as error:  # of sockets, HTTP, the file system, or a wrong hash
            raise CalexError(
                f"weights: {entry.url} cannot be downloaded ({one_line(error)}); put the file {path.name} into {path.parent}"
            ) from None
    return path


def load(model: nn.Module, network: str, entry: Entry, replaced: Collection[str] = ()) -> list[str]:
    """Put published weights into a network that was built without.

    Parameters
    ----------
    model : torch.nn.Module
        The network, as `build` makes it for any number of classes.
    network : str
        Its name.
    entry : Entry
        The weights.
    replaced : collection of str
        Names of its tensors that stay as they are, because others take their place.

    Returns
    -------
    list of str
        Warnings: a file under the published name that is another one. torch compares its hash after a download only.

    Raises
    ------
    CalexError
        For a file that cannot be had or read, and for a network of another number of classes.
    """
    path = fetch(entry)
    formats.read(path)  # refuses what is damaged, and what is more than tensors; then torchvision may read it its own way
    digest, expected = sha256(path.read_bytes()), re.search(r"-([a-f0-9]+)\.", path.name)
    warnings = []
    if expected and not digest.startswith(expected[1]):
        warnings.append(
            f"{path} is not the published file: its sha256 begins with {digest[: len(expected[1])]}, not {expected[1]}; "
            "delete it to have it downloaded"
        )
    weights = _state(network, entry, path)
    wanted: dict[str, Any] = model.state_dict()
    taken = {name: tensor for name, tensor in weights.items() if name not in replaced}
    for name, tensor in taken.items():
        if name not in wanted or wanted[name].shape != tensor.shape:
            here = tuple(wanted[name].shape) if name in wanted else "none"
            raise CalexError(f"weights: {name} of {entry.name} is {tuple(tensor.shape)}, here {here}; {_remedy(name, entry)}")
        if not torch.isfinite(tensor).all():
            raise CalexError(f"{path}: {name} holds values that are not finite; delete it to have it downloaded again")
    # What torchvision leaves out of the published network, auxiliary heads, evaluation never asks.
    model.load_state_dict(taken, strict=False)
    return warnings


def _remedy(name: str, entry: Entry) -> str:
    if "pos_embedding" in name:
        return f"position embeddings are for images of {entry.transforms().crop_size[0]} px: leave `crop` out"
    return f"they tell {len(entry.meta['categories'])} classes apart: set `head: probe` for a new last layer"


def _state(network: str, entry: Entry, path: Path) -> dict[str, torch.Tensor]:
    """The weights under today's names: torchvision itself knows how those of older files are to be read."""
    try:
        return dict(models.get_model(network, weights=entry, progress=False).state_dict())
    except Exception as error:  # of a file that holds another network
        raise CalexError(f"{path}: does not fit {network} ({one_line(error)}); delete it to have it downloaded") from None
