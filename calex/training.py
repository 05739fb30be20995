"""Training a backbone from scratch, before it is frozen: the plain sound recipe, nothing that selects on validation.

What a run is at any step lies in one state: weights, momentum, random numbers, the place in the epoch. It is saved
after every epoch and every few minutes, and a run that starts from it ends in the same weights, to the bit on a CPU.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from calex.convolutions import by_images
from calex.errors import CalexError, one_line
from calex.files import replacing
from calex.precision import autocast
from calex.progress import say, track
from calex.transform import augment, to_input

SAVE_EVERY = 180.0  # seconds of an epoch that a kill may cost
AUXILIARY = 0.3  # weight of a loss at auxiliary logits (Szegedy et al. 2015, section 5)


def batches(count: int, size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """A shuffled epoch as (B,) int64 positions. A last batch of one is left out: BatchNorm cannot train on it."""
    order = np.random.default_rng([seed, epoch]).permutation(count)
    return [order[start : start + size] for start in range(0, count, size) if count - start > 1]


def learning_rate(schedule: str, peak: float, step: int, steps: int) -> float:
    """The rate of step 0 … steps − 1.

    `onecycle` (Smith & Topin 2018): from peak/25 up to the peak over a quarter of the steps, then down to
    peak/250,000, both as half a cosine. `cosine` (Loshchilov & Hutter 2017): from the peak down towards 0.
    """

    def between(start: float, end: float, share: float) -> float:
        return end + (start - end) * (1 + math.cos(math.pi * share)) / 2

    if schedule == "cosine":
        return between(peak, 0, step / steps)
    top = max(0.25 * steps - 1, 0)
    if step < top:
        return between(peak / 25, peak, step / top)
    return between(peak, peak / 250_000, (step - top) / max(steps - 1 - top, 1))


def loss_of(output: Any, target: torch.Tensor, label_smoothing: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss and the logits (B, classes) of what a network gives: logits, or a tuple with auxiliary ones after them."""
    logits, *auxiliary = output if isinstance(output, tuple) else (output,)
    losses = [F.cross_entropy(part.float(), target, label_smoothing=label_smoothing) for part in (logits, *auxiliary)]
    return losses[0] + AUXILIARY * sum(losses[1:]), logits.detach()


class Run:
    """The state of a training run, and how it is saved and taken up again."""

    def __init__(self, model: nn.Module, settings: dict[str, Any], compute: str, device: torch.device) -> None:
        self.model, self.device = model, device
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=settings["learning_rate"],
            momentum=settings["momentum"],
            weight_decay=settings["weight_decay"],
            nesterov=settings["momentum"] > 0,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=compute == "float16" and device.type == "cuda")
        self.epoch = self.batch = 0  # the next one
        self.sums = torch.zeros(3)  # of this epoch: losses, right answers, images
        self.history: list[dict[str, float]] = []

    def parts(self) -> dict[str, Any]:
        return {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def save(self, path: Path) -> None:
        """Whole or not at all."""
        state = {name: part.state_dict() for name, part in self.parts().items()}
        state |= {"epoch": self.epoch, "batch": self.batch, "sums": self.sums, "history": self.history}
        state["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["cuda_random"] = torch.cuda.get_rng_state(self.device)
        try:
            with replacing(path) as partial:
                torch.save(state, partial)
        except RuntimeError as error:  # what torch makes of a disk that is full
            raise CalexError(
                f"{path}: cannot be written ({one_line(error)}); make room and rerun, it goes on from here"
            ) from None

    def take_up(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle's errors have no common base
            raise CalexError(
                f"{path}: not a readable state of a training run ({one_line(error)}); delete it and rerun"
            ) from None
        for name, part in self.parts().items():
            part.load_state_dict(state[name])
        self.epoch, self.batch, self.sums, self.history = (state[key] for key in ("epoch", "batch", "sums", "history"))
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)


def train(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    transform: dict[str, Any],
    shifts: dict[str, Any],
    settings: dict[str, Any],
    seed: int,
    compute: str,
    device: torch.device,
    label: str,
    partial: Path | None = None,
) -> list[dict[str, float]]:
    """Fit the network to (N, H, W, C) uint8 images by SGD with Nesterov momentum, to its last epoch, whatever that gives.

    transform: `to_input`'s size, mean and std. shifts: `augment`'s shift and flip. compute: a key of `precision.DTYPES`.
    partial: where the state is kept while it trains; a state that is there is taken up, and whoever gives the name
    vouches that it is of the same run. It stays: delete it when the weights are safe.
    Returns each epoch's mean loss and training accuracy. A loss that is not finite is an error.
    """
    size, epochs = settings["batch_size"], settings["epochs"]
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = Run(model, settings, compute, device)
    if partial is not None and partial.exists():
        run.take_up(partial)
        say(f"{label}: going on after {run.epoch} of {epochs} epochs and {run.batch} batches, from {partial}")
    steps = len(batches(len(images), size, seed, 0))
    saved = time.monotonic()
    gradients_by_images = by_images(device, compute)

    def measured(sums: torch.Tensor) -> dict[str, float]:
        run.sums = sums.cpu()
        loss, right, seen = run.sums.tolist()
        if not math.isfinite(loss):
            raise CalexError(f"{label}: the loss became {loss} in epoch {run.epoch + 1}; lower training.learning_rate")
        return {"loss": loss / seen, "accuracy": right / seen}

    while run.epoch < epochs:
        model.train()
        sums = run.sums.to(device)
        rest = batches(len(images), size, seed, run.epoch)[run.batch :]
        title = f"{label} epoch {run.epoch + 1}/{epochs}"
        for positions in track(rest, title, len(rest), "images", size):
            rate = learning_rate(settings["schedule"], settings["learning_rate"], run.epoch * steps + run.batch, epochs * steps)
            for group in run.optimizer.param_groups:
                group["lr"] = rate
            inputs = to_input(images[positions], **transform, device=device)
            inputs = augment(inputs, positions, key=seed * 1_000_003 + run.epoch + 1, **shifts)
            target = torch.from_numpy(labels[positions]).to(device)
            run.optimizer.zero_grad(set_to_none=True)
            with gradients_by_images:
                with autocast(device, compute):
                    output = model(inputs.contiguous(memory_format=torch.channels_last))
                loss, logits = loss_of(output, target, settings["label_smoothing"])
                run.scaler.scale(loss).backward()
            run.scaler.step(run.optimizer)
            run.scaler.update()
            right = (logits.argmax(1) == target).float().mean()
            sums += torch.stack([loss.detach(), right, torch.ones_like(right)]) * len(positions)
            run.batch += 1
            if partial is not None and time.monotonic() - saved > SAVE_EVERY:
                measured(sums)
                run.save(partial)
                saved = time.monotonic()
        run.history.append(measured(sums))
        say("{}: loss {loss:.4f}, training accuracy {accuracy:.4f}".format(title, **run.history[-1]))
        run.epoch, run.batch, run.sums = run.epoch + 1, 0, torch.zeros_like(run.sums)
        if partial is not None:
            run.save(partial)
            saved = time.monotonic()
    return run.history


def trial(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    transform: dict[str, Any],
    settings: dict[str, Any],
    device: torch.device,
) -> Callable[[str], None]:
    """A function that runs one training batch forward and backward in the precision it is given, on a copy of the network.

    It leaves no trace: the network's weights, its statistics and torch's random numbers stay as they are.
    """
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    positions = batches(len(images), settings["batch_size"], 0, 0)[0]
    inputs = to_input(images[positions], **transform, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.from_numpy(labels[positions]).to(device)
    random = [device] if device.type == "cuda" else []

    def run(compute: str) -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        with torch.random.fork_rng(random), by_images(device, compute):
            with autocast(device, compute):
                output = model(inputs)
            loss_of(output, target, settings["label_smoothing"])[0].backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


@torch.inference_mode()
def predictions(
    model: nn.Module, images: np.ndarray, transform: dict[str, Any], device: torch.device, batch: int = 256
) -> np.ndarray:
    """(N,) int64: the network's answers, in evaluation mode and float32."""
    model.to(device).eval()
    answers = [
        model(to_input(images[start : start + batch], **transform, device=device)).argmax(1).cpu().numpy()
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(answers)
