"""calex beside earlyon 0.3: training the same heads over the same frozen network, and answering the same images.

    pip install --no-deps earlyon==0.3.0 && python tests/earlyon/compare.py

ResNet18 with the CIFAR stem at 32 pixels, three heads of one hidden layer, random weights and made-up images: neither changes how
long anything takes. Both run on the same threads, in turn. Training is timed with features that are cached already, because
that is what a cache is for, and with caching them too.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).parent))

import calex
from calex.backbones import build
from calex.benchmarks.latency import made_up, settled
from calex.deploy import latency
from calex.deploy.cascade import Cascade

TAPS, CLASSES, SIZE = ["layer1", "layer2", "layer3"], 10, 32
MEAN = {"mean": [0.5] * 3, "std": [0.25] * 3}
SHARES = np.array([0.3, 0.3, 0.2, 0.2])  # of images at each exit
LIMITS = {"training, cached": 20.0, "batch 1": 1.0, "batch 64": 1.5}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def pixels(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    return draw.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8), np.arange(count) % CLASSES


def of_calex(network: torch.nn.Module, count: int, epochs: int, threads: int) -> tuple[dict[str, float], Cascade]:
    """Seconds of caching and training, and the cascade."""
    recipe = {"name": "branchwise", "epochs": epochs, "batch_size": 128, "learning_rate": 0.001, "weight_decay": 0.0}
    method = {"recipe": recipe, "head": {"name": "parts.pooled"}, "target": {"name": "labels"}}
    attached = calex.attach(
        network, TAPS, classes=list("0123456789"), size=SIZE, normalisation=MEAN, pool=1, method=method, device="cpu", threads=threads
    )  # fmt: skip
    whole, _ = timed(lambda: attached.fit(pixels(count, 0), pixels(200, 1)))
    again, _ = timed(lambda: attached._train(seed=1))
    return {"training, cached": again, "training and caching": whole}, attached.calibrate("global", max_flops=2)


def of_earlyon(network: torch.nn.Module, count: int, epochs: int) -> tuple[float, Any]:
    """Seconds of training, and the wrapped network."""
    from earlyon.models.custom import custom_ee
    from earlyon.training.two_stage_trainer import stage2_train_exits

    model = custom_ee(network, TAPS, CLASSES, input_shape=(1, 3, SIZE, SIZE), hidden_dim=128, dropout=0.2)
    images, labels = pixels(count, 0)
    inputs = (torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.25
    loader = DataLoader(TensorDataset(inputs, torch.from_numpy(labels)), batch_size=128, shuffle=True)
    return timed(lambda: stage2_train_exits(model, loader, epochs=epochs, lr=0.001, on_epoch_end=lambda log: None))


def same_answers(cascade: Cascade, model: Any) -> None:
    """Give earlyon the weights and thresholds of the cascade."""
    for head, branch in zip(model.exit_heads.values(), cascade.branches.branches, strict=True):
        head.classifier[0].load_state_dict(branch.core[2].state_dict())
        head.classifier[3].load_state_dict(branch.classifier.state_dict())
    model.config.confidence_thresholds = [float(value) for value in cascade.sweep.thresholds[0, :, 0]]
    model.config.validate()
    model.eval()


def answering(cascade: Cascade, model: Any, inputs: torch.Tensor, rounds: int) -> dict[str, tuple[float, float]]:
    """Seconds of earlyon and of calex, medians of the rounds, for batches of 1 and of 64."""
    works = {
        "batch 1": (1, lambda part: model(part, mode="inference")),
        "batch 64": (64, model.forward_inference_batched),
    }
    seconds = {}
    for name, (batch, answer) in works.items():
        parts = inputs.split(batch)
        times = []
        for _ in range(rounds + 1):
            times.append(
                [timed(lambda: [work(part) for part in parts])[0] for work in (answer, cascade)]  # noqa: B023
            )
        first, second = np.median(np.array(times[1:]), axis=0)
        seconds[name] = (float(first), float(second))
    return seconds


def main(words: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000, help="training images (default: 10000)")
    parser.add_argument("--epochs", type=int, default=10, help="(default: 10)")
    parser.add_argument("--test-images", type=int, default=512, help="(default: 512)")
    parser.add_argument("--rounds", type=int, default=5, help="of answering (default: 5)")
    parser.add_argument("--threads", type=int, default=1, help="(default: 1)")
    args = parser.parse_args(words)
    warnings.simplefilter("ignore")
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    network = build.build("resnet18", "cifar", CLASSES)
    settled(network, made_up(64, SIZE))
    ours, cascade = of_calex(build.freeze(network), args.images, args.epochs, args.threads)
    theirs, model = of_earlyon(network, args.images, args.epochs)
    ratios = {name: theirs / seconds for name, seconds in ours.items()}
    print(f"{args.epochs} epochs of {args.images} images, {args.threads} thread(s): earlyon {theirs:.1f} s")
    for name, seconds in ours.items():
        print(f"  calex, {name}: {seconds:.1f} s, {ratios[name]:.1f} × as fast{verdict(name, ratios[name])}")
    inputs = cascade.prepare(pixels(args.test_images, 2)[0])
    cascade = latency.with_shares(cascade.fuse(), inputs, SHARES)
    same_answers(cascade, model)
    exits = cascade(inputs).exit
    alike = np.mean([model(inputs[n : n + 1], mode="inference").exit_taken % 4 == int(exits[n]) for n in range(len(inputs))])
    print(f"{args.test_images} images: {alike:.1%} leave at the same exit, {np.bincount(exits, minlength=4).tolist()} at each")
    for name, (first, second) in answering(cascade, model, inputs, args.rounds).items():
        ratios[name] = first / second
        print(
            f"  {name}: earlyon {first:.2f} s, calex {second:.2f} s, {ratios[name]:.2f} × as fast{verdict(name, ratios[name])}"
        )
    return ratios | {"alike": float(alike)}


def verdict(name: str, ratio: float) -> str:
    return f", limit {LIMITS[name]:g}: {'met' if ratio >= LIMITS[name] else 'MISSED'}" if name in LIMITS else ""


if __name__ == "__main__":
    main()
