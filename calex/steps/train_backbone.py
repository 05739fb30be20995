"""Train the backbone, or take a checkpoint you bring: backbone.safetensors and backbone.json.

The network trains on the train split to its last epoch; validation and test images are only measured at the
end. A checkpoint is checked tensor by tensor instead, and nothing is trained.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from calex import backbones, devices, flops, images, settings, training
from calex.errors import CalexError
from calex.files import replacing, sha256, write_json
from calex.progress import say
from calex.transform import channel_statistics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="the dataset file (images.npz)")
    parser.add_argument(
        "--settings",
        type=settings.parse,
        required=True,
        help='JSON: {"network", "stem", "input_size", "augment": {"shift", "flip"}, "normalisation", "training": {…}, '
        '"seed", "trained_on"}; config/README.md explains each key',
    )
    parser.add_argument("--checkpoint", type=Path, help="take these weights instead of training (.safetensors or a torch file)")
    parser.add_argument(
        "--out", type=Path, required=True, help="the weights to write (.safetensors); a .json of the same name goes beside it"
    )
    devices.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    device = devices.claim(args.device, args.threads)
    dataset = images.load(args.dataset)
    label = f"train-backbone {chosen['network']}"
    train = dataset.indices("train")
    torch.manual_seed(chosen["seed"])
    model = backbones.build(chosen["network"], chosen["stem"], len(dataset.names))
    if chosen["normalisation"]:
        mean, std = chosen["normalisation"]["mean"], chosen["normalisation"]["std"]
    else:
        mean, std = channel_statistics(dataset.images[train])
    transform = {"size": chosen["input_size"], "mean": mean, "std": std}

    if args.checkpoint is None:
        say(f"{label}: {len(train)} images at {chosen['input_size']} px on {devices.describe(device)}")
        history = training.train(
            model, dataset.images[train], dataset.labels[train], transform, chosen["augment"]["shift"], chosen["augment"]["flip"],
            chosen["training"], chosen["seed"], device, label,
        )  # fmt: skip
        trained_on = ["train"]
    else:
        backbones.load_weights(model, backbones.read_weights(args.checkpoint), args.checkpoint)
        history, trained_on = [], chosen["trained_on"]
        for split in {"val", "test"} & set(trained_on):
            say(
                f"{label}: warning: the checkpoint was trained on {split} images; what is chosen or reported on them will flatter"
            )

    accuracy = {}
    for split in images.SPLITS:
        rows = dataset.indices(split)
        answers = training.predictions(model, dataset.images[rows], transform, device)
        accuracy[split] = float((answers == dataset.labels[rows]).mean())
    say(f"{label}: accuracy " + ", ".join(f"{split} {value:.4f}" for split, value in accuracy.items()))

    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in weights.values()):
        raise CalexError(f"{label}: a weight is not finite; lower training.learning_rate or check the checkpoint")
    with replacing(args.out) as partial:
        save_file(weights, partial)
    write_json(
        args.out.with_suffix(".json"),
        {
            "network": chosen["network"],
            "stem": chosen["stem"],
            "classes": len(dataset.names),
            "transform": transform,
            "augment": chosen["augment"],
            "accuracy": accuracy,
            "trained_on": trained_on,
            "history": history,
            "parameters": backbones.parameters(model),
            "flops": flops.of(model.cpu(), 3, chosen["input_size"], chosen["input_size"]),
            "dataset": dataset.fingerprint,
            "fingerprint": sha256(args.out.read_bytes()),
            "device": devices.describe(device),
            "threads": args.threads,
            "torch": torch.__version__,
        },
    )
