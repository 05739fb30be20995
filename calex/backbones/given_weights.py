"""Weights that a network is given instead of training it: a file of the user's, or published ones; what is told of either."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from calex.backbones import metadata, published_file
from calex.backbones.checkpoint import Loaded, load_checkpoint
from calex.backbones.published import Entry

ENLARGED = 2  # times, from which on it is told


@dataclass(frozen=True)
class Given:
    """Where weights came from.

    content: what their file says of images and classes. others: keys of other weights in it. warnings: what is probably
    wrong, before they have answered a single image.
    """

    content: Any
    others: list[str]
    warnings: list[str]


def load(
    model: nn.Module,
    checkpoint: Path | None,
    entry: Entry | None,
    chosen: dict[str, Any],
    transform: dict[str, Any],
    stored: Sequence[int],
    replaced: Collection[str] = (),
) -> Given:
    """Put a checkpoint or published weights into a network.

    Parameters
    ----------
    model : torch.nn.Module
        The network.
    checkpoint : path or None
        The user's file.
    entry : Entry or None
        Published weights, where there is no file.
    chosen : dict
        The backbone's settings: network, trained_on, and checkpoint_key.
    transform : dict
        `to_input`'s, of which the sizes are compared with what the weights say.
    stored : sequence of int
        (height, width) of the stored images.
    replaced : collection of str
        Names of the network's tensors that are not taken.

    Raises
    ------
    CalexError
        For what does not fit.
    """
    if checkpoint is not None:
        loaded = load_checkpoint(model, checkpoint, chosen.get("checkpoint_key"), replaced)
        content, others, warnings = loaded.content, loaded.others, checkpoint_warnings(loaded, chosen)
    else:
        assert entry is not None
        content, others = {"categories": entry.meta["categories"]}, []
        warnings = published_file.load(model, chosen["network"], entry, replaced)
        if min(stored) * ENLARGED <= transform["resize"]:
            warnings.append(
                f"images are stored at {min(stored)} px and enlarged to {transform['resize']}; a larger `size` of the source "
                "shows more of them, a smaller `crop` of the backbone costs less"
            )
    seen = [
        f"the weights were trained on {split} images; what is chosen or reported on them will flatter"
        for split in ("val", "test")
        if split in chosen["trained_on"]
    ]
    return Given(content, others, seen + warnings + metadata.check_size(content, transform["size"]))


def checkpoint_warnings(loaded: Loaded, chosen: dict[str, Any]) -> list[str]:
    """Warn of what a checkpoint is before it has answered a single image."""
    warnings = []
    if loaded.others and chosen.get("checkpoint_key") is None:
        taken = f"'{loaded.key}' was taken" if loaded.key else "the first was taken"
        warnings.append(
            f"the checkpoint holds several weights of this network: {taken}, and there is {', '.join(loaded.others)}; "
            "checkpoint_key chooses"
        )
    if loaded.left_out:
        first = ", ".join(loaded.left_out[:3]) + (", …" if len(loaded.left_out) > 3 else "")
        warnings.append(f"{len(loaded.left_out)} tensors of the checkpoint are no part of the network and left out: {first}")
    return warnings
