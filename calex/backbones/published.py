"""Weights that torchvision publishes: which there are for a network, and how images were read when they were trained."""

from __future__ import annotations

from typing import Any

from calex.backbones import own
from calex.backbones.vision import models
from calex.errors import CalexError, suggestion

Entry = Any  # a member of one of torchvision's WeightsEnum


def entry(network: str, name: str | None) -> Entry | None:
    """Return torchvision's entry of a network by its name, as `IMAGENET1K_V2` or `DEFAULT`; None for no name.

    Raises CalexError for a network of the user's own, and for a name that this network does not have.
    """
    if name is None:
        return None
    if own.is_own(network):
        raise CalexError(f"weights: torchvision has none of {network}; give a file of weights in `checkpoint`")
    if network not in models.list_models(module=models):
        return None  # building it says so better
    known = models.get_model_weights(network)
    if name not in known.__members__:
        raise CalexError(f"weights: {network} has no '{name}', {suggestion(name, known.__members__)}")
    return known[name]


def reading(chosen: dict[str, Any], given: Entry | None) -> dict[str, Any]:
    """How a network reads an image: `to_input`'s size, resize, fit and interpolation.

    Parameters
    ----------
    chosen : dict
        The settings of a step: input_size, and crop, resize, fit and interpolation, each of which may be None or missing.
    given : Entry or None
        Published weights, whose own values stand for what is not chosen. At another crop than their own the resize keeps
        its ratio to it.

    Raises
    ------
    CalexError
        For a crop that is larger than what it is cut from.
    """
    size, resize = chosen.get("crop"), chosen.get("resize")
    fit, interpolation = chosen.get("fit"), chosen.get("interpolation")
    if given is not None:
        preset = given.transforms()
        size = size or preset.crop_size[0]
        resize = resize or round(size * preset.resize_size[0] / preset.crop_size[0])
        fit, interpolation = fit or "crop", interpolation or preset.interpolation.value
    size = size or chosen["input_size"]
    resize = resize or size
    if size > resize:
        raise CalexError(f"resize: images of {resize} px have no crop of {size} px; raise it, or lower crop or input_size")
    return {"size": size, "resize": resize, "fit": fit or "stretch", "interpolation": interpolation or "bilinear"}


def normalisation(model: Any, given: Entry) -> dict[str, list[float]]:
    """Mean and std of each channel that published weights were trained with.

    A network that turns such inputs into others itself, as GoogLeNet and Inception do with their published weights
    (`transform_input`, which turns them into (x − 0.5) / 0.5), is built without that here and given the others.
    """
    if hasattr(model, "transform_input"):
        return {"mean": [0.5] * 3, "std": [0.5] * 3}
    preset = given.transforms()
    return {"mean": [*preset.mean], "std": [*preset.std]}
