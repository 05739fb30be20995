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
from safetensors.torch import save

from calex import backbones, devices, flops, images, networks, settings, splitting, training, transform
from calex.errors import CalexError
from calex.files import canonical_json, replacing, sha256, write_json
from calex.locks import guard_of, locked
from calex.progress import say
from calex.vision import torchvision

LOWER = "training.batch_size or input_size"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="the dataset file (images.npz)")
    parser.add_argument(
        "--settings",
        type=settings.parse,
        required=True,
        help='JSON: {"network", "stem", "input_size", "augment": {"shift", "flip"}, "head_holdout", "normalisation", "training": {…}, '
        '"seed", "trained_on"}; config/README.md explains each key',
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
    model = backbones.build(network, chosen["stem"], len(dataset.names))
    backbones.check(model, network, size, len(dataset.names), training=args.checkpoint is None)
    if chosen["normalisation"]:
        mean, std = chosen["normalisation"]["mean"], chosen["normalisation"]["std"]
    else:
        mean, std = transform.channel_statistics(dataset.images[learned])
    scale = {"size": size, "mean": mean, "std": std}
    own_sources = networks.sources(network) if networks.is_own(network) else {}

    with locked(guard_of(args.out), "training of this backbone"):
        if args.checkpoint is None:
            compute = devices.resolved_for_training(chosen["training"]["compute"], device)
            partial = args.out.with_name(f".{args.out.name}.{fingerprint(args, dataset, own_sources, compute, device)}.partial")
            say(f"{label}: {len(learned)} images at {size} px in {compute} on {devices.describe(device)}")
            history = training.train(
                model, dataset.images[learned], dataset.labels[learned], scale, chosen["augment"],
                chosen["training"], chosen["seed"], compute, device, label, partial,
            )  # fmt: skip
            trained_on = ["train"] if len(learned) == len(train) else [f"{len(learned)} of {len(train)} train images"]
        else:
            backbones.load_weights(model, backbones.read_weights(args.checkpoint), args.checkpoint)
            compute, history, trained_on = None, [], chosen["trained_on"]
            for split in {"val", "test"} & set(trained_on):
                say(
                    f"{label}: warning: the checkpoint was trained on {split} images; what is chosen or reported on them will flatter"
                )
        finish(args.out, model, dataset, scale, device, label, {
            "network": network,
            "network_sources": own_sources,
            "stem": chosen["stem"],
            "augment": chosen["augment"],
            "head_holdout": chosen["head_holdout"],
            "trained_on": trained_on,
            "history": history,
            "compute": compute,
            "threads": args.threads,
        })  # fmt: skip
        for stale in args.out.parent.glob(f"*.{glob.escape(args.out.name)}.*.partial"):  # of this and of other settings
            stale.unlink(missing_ok=True)


def fingerprint(
    args: argparse.Namespace, dataset: images.Images, own_sources: dict[str, str], compute: str, device: torch.device
) -> str:
    """Of all that decides the weights: training goes on only from a state of the very same run."""
    identity = {
        "settings": args.settings,
        "dataset": dataset.fingerprint,
        "network": own_sources,
        "code": [
            sha256(Path(str(module.__file__)).read_bytes()) for module in (backbones, images, splitting, training, transform)
        ],
        "compute": compute,
        "device": device.type,
        "threads": args.threads if device.type == "cpu" else None,
        "versions": [torch.__version__, torchvision.__version__, np.__version__],
    }
    return sha256(canonical_json(identity).encode())[:16]


def finish(
    out: Path,
    model: torch.nn.Module,
    dataset: images.Images,
    scale: dict[str, Any],
    device: torch.device,
    label: str,
    about: dict[str, Any],
) -> None:
    """Measure the network on every split, write its weights, then what is known of it."""
    accuracy = {}
    for split in images.SPLITS:
        rows = dataset.indices(split)
        answers = training.predictions(model, dataset.images[rows], scale, device)
        accuracy[split] = float((answers == dataset.labels[rows]).mean())
    say(f"{label}: accuracy " + ", ".join(f"{split} {value:.4f}" for split, value in accuracy.items()))

    weights = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    strange = next((name for name, tensor in weights.items() if not torch.isfinite(tensor).all()), None)
    if strange is not None:
        raise CalexError(
            f"{label}: {strange} is not finite after training; lower training.learning_rate, or set training.compute: float32"
        )
    with replacing(out) as partial:
        partial.write_bytes(save(weights))  # `save_file` would let nobody else read it
    write_json(
        out.with_suffix(".json"),
        about
        | {
            "classes": len(dataset.names),
            "transform": scale,
            "accuracy": accuracy,
            "parameters": backbones.parameters(model),
            "flops": flops.of(model.cpu(), 3, scale["size"], scale["size"]),
            "dataset": dataset.fingerprint,
            "fingerprint": sha256(out.read_bytes()),
            "device": devices.describe(device),
            "device_type": device.type,
            "torch": torch.__version__,
        },
    )
