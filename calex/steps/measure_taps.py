"""Check a network's taps and count what each stage costs: taps.json.

Needs shapes only, no weights: a tap that does not exist is found before anything is trained.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from calex import images
from calex.backbones import proposal, published
from calex.backbones.build import build, parameters
from calex.backbones.taps import measure_taps
from calex.backbones.trace import check_network
from calex.system.files import write_json
from calex.system.progress import say
from calex.workflow import settings_argument

LOWER = "input_size"  # where there is not enough memory


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dataset", type=Path, required=True, help="the dataset file (images.npz), for its number of classes")
    parser.add_argument(
        "--settings",
        type=settings_argument.parse,
        required=True,
        help='JSON: {"network": "resnet18", "stem": "cifar", "input_size": 32, "taps": ["layer1", …] or "auto", "pool": 8}, and "weights", '
        '"crop", "resize", "layout", "class_token" as in config/README.md',
    )
    parser.add_argument("--out", type=Path, required=True, help="the file to write (taps.json)")


def run(args: argparse.Namespace) -> None:
    chosen = args.settings
    classes = len(images.load_names(args.dataset))
    size = published.reading(chosen, published.entry(chosen["network"], chosen.get("weights")))["size"]
    model = build(chosen["network"], chosen["stem"], classes, size)
    channels = check_network(model, chosen["network"], size, classes)
    class_token = chosen.get("class_token", "drop")
    names = proposal.names_of(chosen["taps"], model, size, chosen["pool"], chosen["network"], channels, class_token)
    taps, total = measure_taps(
        model,
        names,
        size,
        chosen["pool"],
        chosen["network"],
        channels,
        class_token,
        chosen.get("layout"),
    )
    write_json(
        args.out,
        {
            **chosen,
            "input_size": size,
            "taps": [asdict(tap) for tap in taps],
            "flops": total,
            "parameters": parameters(model),
            "classes": classes,
        },
    )
    for tap in taps:
        say(f"{tap.name}: {tap.full_shape} read as {tap.shape}, {tap.flops / total:.3f} of {total / 1e6:.1f} MFLOPs")
