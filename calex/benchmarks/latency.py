"""Is a cascade as much faster than its network as its FLOPs promise? Random weights, made-up images.

What an image costs depends on where it leaves and not on what it shows: at each operating point as many images leave at each
exit as cost so much in the mean. A ratio is the measured speed-up over the one that FLOPs predict. The cascade's convolutions are
fused with what follows them, as one would deploy it; the network is run as it is.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from calex import plugins
from calex.backbones import build, taps
from calex.benchmarks import Bench, Row, in_turn, row
from calex.branches.branch import built, head_for
from calex.deploy import latency, onnx, to_onnx
from calex.deploy.cascade import Cascade
from calex.deploy.folder import assembled
from calex.deploy.sweep import without_thresholds
from calex.errors import CalexError
from calex.system.progress import say

POINTS = (0.3, 0.5, 0.7)
WITH_ONNX = 0.5  # of these
LIMITS = {1: 0.75, 32: 0.9, 256: 0.9}  # by batch
# Network, stem, side of its images in pixels, classes; and for each batch how many images a round has.
NETWORKS = {
    ("resnet18", "cifar", 32, 10): {1: 64, 32: 256, 256: 256},
    ("resnet50", "imagenet", 224, 1000): {1: 16, 32: 64, 256: 256},
}
TAPS, POOL = ("layer1", "layer2", "layer3"), 8


def measure(bench: Bench) -> list[Row]:
    """Each network, at each operating point and size of batch."""
    rows: list[Row] = []
    for (network, stem, size, classes), rounds in NETWORKS.items():
        cascade = random_cascade(network, stem, size, classes)
        runtime = by_onnxruntime(cascade, bench)
        cascade.fuse().to(bench.device)
        for batch, images in rounds.items():
            inputs = made_up(bench.scaled(images), size).to(bench.device)
            shares = [latency.shares_for(cascade.costs, point) for point in POINTS]
            cascades = [latency.with_shares(cascade, inputs, each) for each in shares]
            for point, each in zip(POINTS, latency.measure(cascades, inputs, batch, bench.repeats, 0.0), strict=True):
                where = ", ".join(f"{part} {share:.0%}" for part, share in each.shares.items())
                detail = (
                    f"{each.speed_up:.2f} × measured, {each.predicted:.2f} × by FLOPs; {1e3 * each.cascade:.3g} ms an image, the "
                    f"network {1e3 * each.network:.3g} ms; {where}"
                )
                ratio, low, high = (value / each.predicted for value in (each.speed_up, each.low, each.high))
                name = f"speed-up over FLOPs, {network} at {size} px, {point} of the cost, batches of {batch}"
                rows.append(Row(name, ratio, low, high, LIMITS[batch], False, detail, {"speed_up": each.speed_up}))
            if runtime:
                where = f"{network} at {size} px, {WITH_ONNX} of the cost, batches of {batch}"
                rows.append(beside_torch(cascades[POINTS.index(WITH_ONNX)], runtime, inputs, batch, bench.repeats, where))
    return rows


def by_onnxruntime(cascade: Cascade, bench: Bench) -> onnx.OnnxCascade | None:
    """Give the cascade to onnxruntime, on as many threads; None, said in a line, where it cannot be."""
    if bench.device.type != "cpu":
        say("latency: torch alone, because onnxruntime is timed on a CPU")
        return None
    try:
        files = to_onnx.exported(cascade)
        return onnx.assembled(
            files.__getitem__, cascade.sweep, cascade.about, 0, bench.threads, providers=["CPUExecutionProvider"]
        )
    except CalexError as error:  # what is not installed
        say(f"latency: torch alone: {error}")
        return None


def beside_torch(
    cascade: Cascade, runtime: onnx.OnnxCascade, inputs: torch.Tensor, batch: int, repeats: int, where: str
) -> Row:
    """Time one operating point in torch and in onnxruntime, in turn."""
    runtime.sweep, parts = cascade.sweep, inputs.split(batch)
    arrays = [part.numpy() for part in parts]
    ours, theirs = in_turn(lambda: [cascade(part) for part in parts], lambda: [runtime(part) for part in arrays], repeats)
    first, second = (1e3 * float(np.median(times)) / len(inputs) for times in (ours, theirs))
    detail = f"{first:.3g} ms an image in torch, {second:.3g} ms in onnxruntime"
    return row(f"torch / onnxruntime, the same cascade, {where}", ours, theirs, None, False, detail)


def made_up(count: int, size: int) -> torch.Tensor:
    """(count, 3, size, size) float32."""
    return torch.randn((count, 3, size, size), generator=torch.Generator().manual_seed(0))


def random_cascade(network: str, stem: str, size: int, classes: int) -> Cascade:
    """A cascade of random weights whose values have usual sizes; its branches are the default ones, with the softmax's score."""
    torch.manual_seed(0)
    model = build.build(network, stem, classes)
    settled(model, made_up(8, size))
    measured, flops = taps.measure_taps(build.freeze(model), TAPS, size, POOL, network)
    head = head_for(plugins.complete("heads", {"name": "auto"}, "head"), flops, classes)
    recipe = plugins.complete("recipes", {"name": "branchwise"}, "recipe")
    method = {"recipe": recipe, "head": head, "shared_core": False, "confidence": False}
    branches = built(method, [tap.shape for tap in measured], classes, seed=0)
    record = {
        "network": {"name": network, "stem": stem, "sources": {}}, "classes": [str(label) for label in range(classes)],
        "channels": 3, "transform": {"size": size, "mean": [0.5] * 3, "std": [0.25] * 3},
        "picture": {"size": size, "fit": "crop", "grey": False, "whites": {}},
        "taps": [tap.name for tap in measured], "layouts": [{}] * len(TAPS), "shapes": [list(tap.shape) for tap in measured], "pool": POOL,
        "precision": "float16", "compute": "float32", "method": method, "score": "max_softmax", "last": "backbone",
        "costs": {
            "to_tap": [tap.flops for tap in measured], "backbone": flops,
            "head": [branch.flops()[0] for branch in branches.branches],  # type: ignore[operator]
        },
        "made": {"images": {}},
    }  # fmt: skip
    return assembled(model, branches, without_thresholds(len(TAPS), classes), record, 0, check=False)


@torch.no_grad()
def settled(model: nn.Module, images: torch.Tensor) -> None:
    """Give normalisations the statistics of some images, as after training: random weights alone let values grow without end."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()(images)
