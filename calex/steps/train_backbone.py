"""Train the backbone, or take weights, yours or published ones: backbone.safetensors and backbone.json.

The network trains on the train split to its last epoch; validation and test images are only measured at the
end. Weights that are taken are checked tensor by tensor instead, and nothing is trained; with a probe, a new last layer alone.

Training that was killed goes on where it was: its state lies beside the weights to be, in a hidden file named by a
fingerprint of all that decides the result, and is removed when the weights are there.
"""

from __future__ import annotations

import argparse
import glob
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calex import images
from calex.backbones import (
    build,
    convolutions,
    diagnosis,
    given_weights,
    last_layer,
    metadata,
    own,
    probe,
    published,
    training,
    transform,
)
from calex.backbones.normalisation import normalisation
from calex.backbones.trace import check_network
from calex.backbones.vision import torchvision
from calex.backbones.weights import write_weights
from calex.errors import CalexError
from calex.images import splitting
from calex.system import devices, flops, precision
from calex.system.files import canonical_json, sha256, write_json
from calex.system.locks import guard_of, locked
from calex.system.progress import say, warn
from calex.workflow import settings_argument

LOWER = "training.batch_size or input_size"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="the dataset file (images.npz)")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"network", "stem", "input_size", "augment": {"shift", "flip"}, "head_holdout", "normalisation", "training": {…}, '
        '"seed", "trained_on", "weights", "crop", "resize", "fit", "interpolation"; '
        'with weights that are not trained also "checkpoint_key", "expected_accuracy", "head", "last_layer"}; '
        "config/README.md explains each key",
    )
    parser.add_argument("--checkpoint", type=Path, help="take these weights instead of training (.safetensors or a torch file)")
    parser.add_argument(
        "--out", type=Path, required=True, help="the weights to write (.safetensors); a .json of the same name goes beside it"
    )
    devices.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    network = chosen["network"]
    device = devices.claim(args.device, args.threads)
    dataset = images.load(args.dataset)
    label = f"train-backbone {network}"
    learned = dataset.indices("train")
    learned = learned[splitting.split_head_holdout(dataset.labels[learned], chosen["head_holdout"])[0]]
    entry = published.entry(network, chosen.get("weights"))
    reading = published.reading(chosen, entry)
    torch.manual_seed(chosen["seed"])
    model = build.build(network, chosen["stem"], len(dataset.names), reading["size"])
    trains = args.checkpoint is None and entry is None
    if trains and not any(parameter.requires_grad for parameter in model.parameters()):
        raise CalexError(f"network: {network} has no weights that train (requires_grad); bring a checkpoint or let them train")
    channels = check_network(model, network, reading["size"], len(dataset.names), training=trains)
    given = chosen["normalisation"] or (published.normalisation(model, entry) if entry else None)
    scale = {**reading, **normalisation(given, dataset.of(learned), channels)}
    own_sources = own.source_hashes(network) if own.is_own(network) else {}

    with locked(guard_of(args.out), "training of this backbone"):
        if trains:
            made = train(args, model, dataset, learned, scale, own_sources, device, label)
        elif chosen.get("head") == "probe":
            made = take_with_probe(args, entry, model, dataset, learned, scale, device, label)
        else:
            made = take(args, entry, model, dataset, scale, device)
        accuracy = {split: float((made.answers[split] == labels_of(dataset, split)).mean()) for split in images.SPLITS}
        say(f"{label}: accuracy " + ", ".join(f"{split} {value:.4f}" for split, value in accuracy.items()))
        for warning in made.warnings:
            warn(f"{label}: {warning}")
        finish(args.out, model, channels, {
            "network": network,
            "network_sources": own_sources,
            "stem": chosen["stem"],
            "augment": chosen["augment"],
            "head_holdout": chosen["head_holdout"],
            **made.record,
            "threads": args.threads,
            "classes": len(dataset.names),
            "transform": scale,
            "accuracy": accuracy,
            "warnings": made.warnings,
            "dataset": dataset.fingerprint,
            "device": devices.describe(device),
            "device_type": device.type,
            "torch": torch.__version__,
        })  # fmt: skip
        for stale in args.out.parent.glob(f"*.{glob.escape(args.out.name)}.*.partial"):  # of this and of other settings
            stale.unlink(missing_ok=True)


@dataclass(frozen=True)
class Made:
    """How a network got its weights.

    record: what backbone.json says of it. answers: {split: (n,) int64}, what it answers to each image. warnings: what is
    probably wrong.
    """

    record: dict[str, Any]
    answers: dict[str, np.ndarray]
    warnings: list[str]


def labels_of(dataset: images.Images, split: str) -> np.ndarray:
    """(n,) int64: the labels of a split's images."""
    return dataset.labels[dataset.indices(split)]


def answers_of(
    model: torch.nn.Module, dataset: images.Images, scale: dict[str, Any], device: torch.device
) -> dict[str, np.ndarray]:
    """{split: (n,) int64}: what a network answers to each image."""
    return {split: training.predictions(model, dataset.of(dataset.indices(split)), scale, device) for split in images.SPLITS}


def train(
    args: argparse.Namespace,
    model: torch.nn.Module,
    dataset: images.Images,
    learned: np.ndarray,
    scale: dict[str, Any],
    own_sources: dict[str, str],
    device: torch.device,
    label: str,
) -> Made:
    """Train a network on the images `learned`, (n,) int64 positions."""
    chosen, train_images = args.settings, dataset.indices("train")
    precision.refuse_unscaled(chosen["training"]["compute"], device)
    compute = precision.choose(
        chosen["training"]["compute"], device,
        training.trial(model, dataset.of(learned), dataset.labels[learned], scale, chosen["training"], device),
        "a batch forward and backward", args.out.with_suffix(".precision.json"),
        {
            "network": chosen["network"], "network_sources": own_sources, "stem": chosen["stem"], "input_size": scale["size"],
            "batch_size": chosen["training"]["batch_size"], "classes": len(dataset.names),
            "device_type": device.type, "threads": args.threads, "torch": torch.__version__,
        },
        label,
    )  # fmt: skip
    partial = args.out.with_name(f".{args.out.name}.{fingerprint(args, dataset, own_sources, compute, device)}.partial")
    say(f"{label}: {len(learned)} images at {scale['size']} px in {compute} on {devices.describe(device)}")
    history = training.train(
        model, dataset.of(learned), dataset.labels[learned], scale, chosen["augment"],
        chosen["training"], chosen["seed"], compute, device, label, partial,
    )  # fmt: skip
    whole = len(learned) == len(train_images)
    answers = answers_of(model, dataset, scale, device)
    warnings = diagnosis.of_training(answers["train"][np.isin(train_images, learned)], dataset.labels[learned])
    trained_on = ["train"] if whole else [f"{len(learned)} of {len(train_images)} train images"]
    return Made({"trained_on": trained_on, "history": history, "compute": compute, "last_layer": None}, answers, warnings)


def take(
    args: argparse.Namespace,
    entry: published.Entry | None,
    model: torch.nn.Module,
    dataset: images.Images,
    scale: dict[str, Any],
    device: torch.device,
) -> Made:
    """Take the weights of a checkpoint, or published ones."""
    chosen, train_images = args.settings, dataset.indices("train")
    given = given_weights.load(model, args.checkpoint, entry, chosen, scale, dataset.images.shape[1:3])
    metadata.check_classes(given.content, dataset.names.tolist(), str(args.checkpoint or f"weights {chosen.get('weights')}"))
    answers = answers_of(model, dataset, scale, device)
    warnings = given.warnings + diagnosis.of_checkpoint(
        answers["train"], dataset.labels[train_images], dataset.names.tolist(), chosen, given.others, scale,
        lambda some, other: training.predictions(model, dataset.of(train_images[some]), other, device),
    )  # fmt: skip
    return Made({"trained_on": chosen["trained_on"], "history": [], "compute": None, "last_layer": None}, answers, warnings)


def take_with_probe(
    args: argparse.Namespace,
    entry: published.Entry | None,
    model: torch.nn.Module,
    dataset: images.Images,
    learned: np.ndarray,
    scale: dict[str, Any],
    device: torch.device,
    label: str,
) -> Made:
    """Take weights but those of the last layer, and train that on the images `learned`, (n,) int64 positions."""
    chosen, classes = args.settings, len(dataset.names)
    shape = (len(scale["mean"]), scale["size"], scale["size"])
    found = last_layer.find(model, chosen["network"], shape, chosen.get("last_layer"))
    name, layer = found.name, model.get_submodule(found.name)
    assert isinstance(layer, torch.nn.Linear)
    replaced = [f"{one}.{tensor}" for one in (name, *found.auxiliary) for tensor in model.get_submodule(one).state_dict()]
    given = given_weights.load(model, args.checkpoint, entry, chosen, scale, dataset.images.shape[1:3], replaced)
    say(f"{label}: a new {name} of {classes} outputs is trained on {len(learned)} images, on {devices.describe(device)}")
    features = probe.penultimate(model, layer, dataset.images, scale, device, label)
    labels = torch.from_numpy(dataset.labels).to(device)
    learns, judges = (torch.from_numpy(some).to(device) for some in (learned, dataset.indices("val")))
    fitted = probe.fit(features, labels, learns, judges, classes, layer.bias is not None, label)
    probe.fill(layer, fitted)
    answered = probe.answers(features, fitted)
    answers = {split: answered[dataset.indices(split)] for split in images.SPLITS}
    warnings = given.warnings
    warnings += diagnosis.of_probe(answers["val"], labels_of(dataset, "val"), chosen, given.others, scale)
    record = {
        "trained_on": [*chosen["trained_on"], f"{name}: {len(learned)} train images"],
        "history": [],
        "compute": None,
        "last_layer": {"name": name, "features": features.shape[1], "penalty": fitted.penalty, "tried": fitted.tried},
    }
    return Made(record, answers, warnings)


def fingerprint(
    args: argparse.Namespace, dataset: images.Images, own_sources: dict[str, str], compute: str, device: torch.device
) -> str:
    """Of all that decides the weights: training goes on only from a state of the very same run."""
    identity = {
        "settings": args.settings,
        "dataset": dataset.fingerprint,
        "network": own_sources,
        "code": [
            sha256(Path(str(module.__file__)).read_bytes())
            for module in (build, convolutions, images, splitting, training, transform)
        ],
        "compute": compute,
        "device": device.type,
        "threads": args.threads if device.type == "cpu" else None,
        "versions": [torch.__version__, torchvision.__version__, np.__version__],
    }
    return sha256(canonical_json(identity).encode())[:16]


def finish(out: Path, model: torch.nn.Module, channels: int, about: dict[str, Any]) -> None:
    """Write a network's weights, then what is known of it."""
    write_weights(out, model)
    size = about["transform"]["size"]
    write_json(
        out.with_suffix(".json"),
        about
        | {
            "parameters": build.parameters(model),
            "flops": flops.of(model.cpu(), channels, size, size),
            "fingerprint": sha256(out.read_bytes()),
        },
    )
