"""Train the backbone, or take a checkpoint you bring: backbone.safetensors and backbone.json.

The network trains on the train split to its last epoch; validation and test images are only measured at the
end. A checkpoint is checked tensor by tensor instead, and nothing is trained.

Training that was killed goes on where it was: its state lies beside the weights to be, in a hidden file named by a
fingerprint of all that decides the result, and is removed when the weights are there.
"""

from __future__ import annotations

import argparse
import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch

from calex import devices, flops, images, precision, settings_argument, splitting, transform
from calex.backbones import build, convolutions, diagnosis, metadata, own, training
from calex.backbones.checkpoint import Loaded, load_checkpoint
from calex.backbones.normalisation import normalisation
from calex.backbones.trace import check_network
from calex.backbones.weights import write_weights
from calex.errors import CalexError
from calex.files import canonical_json, sha256, write_json
from calex.locks import guard_of, locked
from calex.progress import say, warn
from calex.vision import torchvision

LOWER = "training.batch_size or input_size"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="the dataset file (images.npz)")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"network", "stem", "input_size", "augment": {"shift", "flip"}, "head_holdout", "normalisation", "training": {…}, '
        '"seed", "trained_on", with a checkpoint also "checkpoint_key", "expected_accuracy"}; config/README.md explains each key',
    )
    parser.add_argument("--checkpoint", type=Path, help="take these weights instead of training (.safetensors or a torch file)")
    parser.add_argument(
        "--out", type=Path, required=True, help="the weights to write (.safetensors); a .json of the same name goes beside it"
    )
    devices.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    network, size = chosen["network"], chosen["input_size"]
    device = devices.claim(args.device, args.threads)
    dataset = images.load(args.dataset)
    label = f"train-backbone {network}"
    train = dataset.indices("train")
    learned = train[splitting.split_head_holdout(dataset.labels[train], chosen["head_holdout"])[0]]
    torch.manual_seed(chosen["seed"])
    model = build.build(network, chosen["stem"], len(dataset.names))
    if args.checkpoint is None and not any(parameter.requires_grad for parameter in model.parameters()):
        raise CalexError(f"network: {network} has no weights that train (requires_grad); bring a checkpoint or let them train")
    channels = check_network(model, network, size, len(dataset.names), training=args.checkpoint is None)
    scale = {"size": size, **normalisation(chosen["normalisation"], dataset.images[learned], channels, network)}
    own_sources = own.source_hashes(network) if own.is_own(network) else {}

    with locked(guard_of(args.out), "training of this backbone"):
        warnings: list[str] = []
        if args.checkpoint is None:
            precision.refuse_unscaled(chosen["training"]["compute"], device)
            compute = precision.choose(
                chosen["training"]["compute"], device,
                training.trial(model, dataset.images[learned], dataset.labels[learned], scale, chosen["training"], device),
                "a batch forward and backward", args.out.with_suffix(".precision.json"),
                {
                    "network": network, "network_sources": own_sources, "stem": chosen["stem"], "input_size": size,
                    "batch_size": chosen["training"]["batch_size"], "classes": len(dataset.names),
                    "device_type": device.type, "threads": args.threads, "torch": torch.__version__,
                },
                label,
            )  # fmt: skip
            partial = args.out.with_name(f".{args.out.name}.{fingerprint(args, dataset, own_sources, compute, device)}.partial")
            say(f"{label}: {len(learned)} images at {size} px in {compute} on {devices.describe(device)}")
            history = training.train(
                model, dataset.images[learned], dataset.labels[learned], scale, chosen["augment"],
                chosen["training"], chosen["seed"], compute, device, label, partial,
            )  # fmt: skip
            trained_on = ["train"] if len(learned) == len(train) else [f"{len(learned)} of {len(train)} train images"]
        else:
            loaded = load_checkpoint(model, args.checkpoint, chosen.get("checkpoint_key"))
            metadata.check_classes(loaded.content, dataset.names.tolist(), str(args.checkpoint))
            compute, history, trained_on = None, [], chosen["trained_on"]
            warnings += checkpoint_warnings(loaded, chosen)

        answers = {
            split: training.predictions(model, dataset.images[dataset.indices(split)], scale, device) for split in images.SPLITS
        }
        accuracy = {split: float((answers[split] == dataset.labels[dataset.indices(split)]).mean()) for split in answers}
        say(f"{label}: accuracy " + ", ".join(f"{split} {value:.4f}" for split, value in accuracy.items()))
        if args.checkpoint is None:
            seen = np.isin(train, learned)
            warnings += diagnosis.of_training(answers["train"][seen], dataset.labels[train[seen]])
        else:
            warnings += diagnosis.of_checkpoint(
                answers["train"], dataset.labels[train], dataset.names.tolist(), chosen, loaded.others, scale,
                lambda some, other: training.predictions(model, dataset.images[train[some]], other, device),
            )  # fmt: skip
        for warning in warnings:
            warn(f"{label}: {warning}")
        finish(args.out, model, channels, {
            "network": network,
            "network_sources": own_sources,
            "stem": chosen["stem"],
            "augment": chosen["augment"],
            "head_holdout": chosen["head_holdout"],
            "trained_on": trained_on,
            "history": history,
            "compute": compute,
            "threads": args.threads,
            "classes": len(dataset.names),
            "transform": scale,
            "accuracy": accuracy,
            "warnings": warnings,
            "dataset": dataset.fingerprint,
            "device": devices.describe(device),
            "device_type": device.type,
            "torch": torch.__version__,
        })  # fmt: skip
        for stale in args.out.parent.glob(f"*.{glob.escape(args.out.name)}.*.partial"):  # of this and of other settings
            stale.unlink(missing_ok=True)


def checkpoint_warnings(loaded: Loaded, chosen: dict[str, Any]) -> list[str]:
    """Warn of what a checkpoint is before it has answered a single image."""
    warnings = [
        f"the checkpoint was trained on {split} images; what is chosen or reported on them will flatter"
        for split in ("val", "test")
        if split in chosen["trained_on"]
    ]
    if loaded.others and chosen.get("checkpoint_key") is None:
        taken = f"'{loaded.key}' was taken" if loaded.key else "the first was taken"
        warnings.append(
            f"the checkpoint holds several weights of this network: {taken}, and there is {', '.join(loaded.others)}; "
            "checkpoint_key chooses"
        )
    if loaded.left_out:
        first = ", ".join(loaded.left_out[:3]) + (", …" if len(loaded.left_out) > 3 else "")
        warnings.append(f"{len(loaded.left_out)} tensors of the checkpoint are no part of the network and left out: {first}")
    return warnings + metadata.check_size(loaded.content, chosen["input_size"])


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
