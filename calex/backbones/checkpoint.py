"""Weights that a user brings: found in a checkpoint of any library, matched with the network, or refused with both shown."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from calex.backbones import formats
from calex.backbones.tensor_names import Match, matches
from calex.errors import CalexError, suggestion

# Under which keys the weights usually lie; what other keys hold is taken if none of these fits.
USUAL = ("", "state_dict", "model", "model_state_dict", "net", "network")
# Averages of weights are for whoever asks for them, where the weights themselves are there too.
AVERAGED = re.compile(r"ema|swa|averag|teacher|shadow", re.IGNORECASE)

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Candidate:
    """One state dict in a checkpoint, and how it is read as the network's."""

    path: str
    state: State
    match: Match

    @property
    def key(self) -> str:
        """What `checkpoint_key` calls it."""
        return _joined(self.path, self.match.prefix)

    @property
    def rank(self) -> tuple[bool, int]:
        """Its place among those that fit: averaged weights last, usual keys first."""
        return AVERAGED.search(self.key) is not None, USUAL.index(self.path) if self.path in USUAL else len(USUAL)


@dataclass(frozen=True)
class Loaded:
    """What came out of a checkpoint besides the weights.

    key: where they were. others: keys of other state dicts that fit the network too. left_out: names of tensors that
    are no part of the network. content: all of the file, for what it says of images and classes.
    """

    key: str
    others: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    content: Any = None


def load_checkpoint(model: nn.Module, path: str | Path, key: str | None = None, replaced: Collection[str] = ()) -> Loaded:
    """Put a checkpoint's weights into a network, or leave it as it is.

    Parameters
    ----------
    model : torch.nn.Module
        The network, of any weights.
    path : path-like
        A .safetensors or torch file.
    key : str, optional
        Which of several state dicts in the file, as a path of keys with dots; the usual one where it is not given.
    replaced : collection of str
        Names of the network's tensors that are not taken from the file, which may lack them or hold others.

    Returns
    -------
    Loaded
        What else the file holds.

    Raises
    ------
    CalexError
        For a file that is no checkpoint, and for a tensor that is missing, unknown, of another shape or not finite: with
        what the file holds beside what the network wants.
    """
    content = formats.read(path)
    states = list(state_dicts(content))
    if not states:
        keys = f" (its keys: {', '.join(map(str, list(content)[:5]))})" if isinstance(content, Mapping) and content else ""
        raise CalexError(f"{path}: holds no state dict (name → tensor){keys}; save the network's state_dict()")
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    candidates = [
        Candidate(place, state, match)
        for place, state in states
        for match in matches({name: tuple(tensor.shape) for name, tensor in state.items()}, wanted, replaced)
    ]
    fitting = sorted((one for one in candidates if one.match.complete), key=lambda one: one.rank)
    if key is not None:
        candidates = [one for one in candidates if key in (one.path, one.key)]
        if not candidates:
            held = [one.key or "(the file itself)" for one in fitting] or [place for place, _ in states]
            raise CalexError(f"{path}: checkpoint_key: nothing under '{key}', {suggestion(key, held)}")
    chosen = next((one for one in fitting if one in candidates), None)
    if chosen is None:
        closest = max(candidates, key=lambda one: (len(one.match.names), len(one.state)))
        raise CalexError(f"{path}: does not fit the network: {refusal(closest, wanted)}")
    weights = {name: chosen.state[source] for name, source in chosen.match.names.items() if name not in replaced}
    wrong = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if wrong is not None:
        raise CalexError(f"{path}: {wrong} holds values that are not finite; bring another checkpoint")
    model.load_state_dict(weights, strict=False)  # of what may be missing, only a counter is
    explained = {(one.path, name) for one in fitting for name in one.match.names.values()}
    return Loaded(
        key=chosen.key,
        others=[one.key or "(the file itself)" for one in fitting if one is not chosen],
        left_out=[name for name in chosen.match.left_out if (chosen.path, name) not in explained],
        content=content,
    )


def state_dicts(content: Any, place: str = "") -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Every dict of named tensors in nested dicts and lists, with its path of keys."""
    if isinstance(content, list | tuple):
        content = {str(position): value for position, value in enumerate(content)}
    if isinstance(content, Mapping):
        tensors = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, torch.Tensor)}
        if tensors:
            yield place, tensors
        for key, value in content.items():
            if isinstance(value, Mapping | list | tuple):
                yield from state_dicts(value, _joined(place, str(key)))


def _joined(*words: str) -> str:
    return ".".join(filter(None, words))


def _listed(tensors: Mapping[str, tuple[int, ...]]) -> str:
    """`62 tensors: conv1.weight (64, 3, 7, 7), …`."""
    first = ", ".join(f"{name} {shape}" for name, shape in list(tensors.items())[:3])
    return f"{len(tensors)} tensors: {first}{', …' if len(tensors) > 3 else ''}"


def refusal(closest: Candidate, wanted: Mapping[str, tuple[int, ...]]) -> str:
    """Why a state dict does not fit: the first faults, a remedy where all but the head fits, and both sides."""
    match, held = closest.match, {name: tuple(tensor.shape) for name, tensor in closest.state.items()}
    faults = [f"{name} is missing" for name in match.missing]
    faults += [f"{name} is not in the network" for name in match.unknown]
    faults += [f"{name} is {held[match.names[name]]}, not {wanted[name]}" for name in match.misfits]
    reasons = "; ".join(faults[:3]) + (f" and {len(faults) - 3} more" if len(faults) > 3 else "")
    pairs = [(held[match.names[name]], wanted[name]) for name in match.misfits]
    outputs = {(there[0], here[0]) for there, here in pairs if there and here and there[1:] == here[1:]}
    if len(match.misfits) == len(faults) and len(outputs) == 1 and all(there[1:] == here[1:] for there, here in pairs):
        there, here = outputs.pop()
        return f"{reasons}; it has {there} classes and the dataset has {here}: set `head: probe` for a new last layer, or fine-tune it"
    if any("pos_embed" in name or "position" in name for name in match.misfits):
        reasons += "; its position embeddings are for another size of images: set the input_size that it was trained at"
    place = f" under '{closest.key}'" if closest.key else ""
    return f"{reasons}; the file holds{place} {_listed(held)}; the network wants {_listed(wanted)}"
