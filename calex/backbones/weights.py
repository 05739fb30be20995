"""The weights that the workflow itself writes, read back under exactly the names that they were written with."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from calex.errors import CalexError
from calex.system.replacing import replacing


def write_weights(path: Path, model: nn.Module) -> None:
    """Write a network's parameters and buffers as .safetensors, completely or not at all."""
    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    wrong = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if wrong is not None:
        raise CalexError(f"{path}: {wrong} is not finite; lower training.learning_rate, or set training.compute: float32")
    with replacing(path) as partial:
        partial.write_bytes(save(weights))  # `save_file` would let nobody else read it


def read_weights(model: nn.Module, path: Path) -> None:
    """Put what `write_weights` wrote into a network of the same kind."""
    try:
        weights = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CalexError(f"{path}: cannot be read ({str(error).splitlines()[0]}); delete it and rerun train-backbone") from None
    expected = model.state_dict()
    wrong = sorted(set(weights) ^ set(expected))
    wrong += [name for name in weights if name in expected and weights[name].shape != expected[name].shape]
    if wrong:
        raise CalexError(
            f"{path}: {wrong[0]} is not as in the network ({len(weights)} tensors, {len(expected)} wanted); rerun train-backbone"
        )
    model.load_state_dict(weights)
