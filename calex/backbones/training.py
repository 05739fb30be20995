"""Training a backbone from scratch, before it is frozen, by a plain recipe that selects nothing on validation images.

One state holds all of a run: weights, momentum, random numbers, epoch and batch. It is saved after every epoch and every
few minutes, and a run that starts from it ends in the same weights, to the bit on a CPU.
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

from calex.backbones.convolutions import by_images
from calex.backbones.transform import augment, to_input
from calex.errors import CalexError, one_line
from calex.images import Selection
from calex.system.precision import autocast
from calex.system.progress import say, track
from calex.system.replacing import replacing

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


class TrainingState:
    """Network, optimiser, epoch and batch of a run, and how they are saved and loaded."""

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

    def components(self) -> dict[str, Any]:
        """What has a state dict of its own."""
        return {"model": self.model, "optimizer": self.optimizer, "scaler": self.scaler}

    def save(self, path: Path) -> None:
        """Write the state, completely or not at all; CalexError where the disk is full."""
        state = {name: component.state_dict() for name, component in self.components().items()}
        state |= {"epoch": self.epoch, "batch": self.batch, "sums": self.sums, "history": self.history}
        state["random"] = torch.get_rng_state()
        if self.device.type == "cuda":
            state["cuda_random"] = torch.cuda.get_rng_state(self.device)
        try:
            with replacing(path) as partial:
                torch.save(state, partial)
        except RuntimeError as error:  # what torch makes of a disk that is full
            raise CalexError(
                f"{path}: cannot be written ({one_line(error)}); make room and rerun, it continues from here"
            ) from None

    def load(self, path: Path) -> None:
        """Go on from a saved state; CalexError for a file that is none."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle's errors have no common base
            raise CalexError(
                f"{path}: not a readable state of a training run ({one_line(error)}); delete it and rerun"
            ) from None
        for name, component in self.components().items():
            component.load_state_dict(state[name])
        self.epoch, self.batch, self.sums, self.history = (state[key] for key in ("epoch", "batch", "sums", "history"))
        torch.set_rng_state(state["random"])
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state["cuda_random"], self.device)


def train(
    model: nn.Module,
    images: np.ndarray | Selection,
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
    """Fit a network by SGD with Nesterov momentum, to its last epoch.

    Parameters
    ----------
    model : torch.nn.Module
        (B, C, S, S) float32 → logits (B, K), or a tuple with auxiliary logits after them. It is trained in place.
    images : numpy.ndarray or Selection
        (N, H, W, C) uint8.
    labels : numpy.ndarray
        (N,) int64, from 0 to K − 1.
    transform : dict
        `to_input`'s size (pixels), mean and std.
    shifts : dict
        `augment`'s shift (pixels) and flip.
    settings : dict
        The config's `training` block: epochs, batch_size, learning_rate, momentum, weight_decay, label_smoothing, schedule.
    seed : int
        Of the order of images and their augmentation.
    compute : str
        A key of `precision.DTYPES`.
    device : torch.device
        Where the network computes.
    label : str
        What the run is called in the log.
    partial : pathlib.Path, optional
        Where the state is kept meanwhile. A state that is there is loaded, and the caller makes sure that it is of the
        same run. The file stays: delete it when the weights are safe.

    Returns
    -------
    list of dict
        Each epoch's mean loss and training accuracy.

    Raises
    ------
    CalexError
        For a loss that is not finite, and for a state that cannot be read or written.
    """
    size, epochs = settings["batch_size"], settings["epochs"]
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    state = TrainingState(model, settings, compute, device)
    if partial is not None and partial.exists():
        state.load(partial)
        say(f"{label}: going on after {state.epoch} of {epochs} epochs and {state.batch} batches, from {partial}")
    steps = len(batches(len(images), size, seed, 0))
    saved = time.monotonic()
    gradients_by_images = by_images(device, compute)

    def measured(sums: torch.Tensor) -> dict[str, float]:
        state.sums = sums.cpu()
        loss, right, seen = state.sums.tolist()
        if not math.isfinite(loss):
            raise CalexError(f"{label}: the loss became {loss} in epoch {state.epoch + 1}; lower training.learning_rate")
        return {"loss": loss / seen, "accuracy": right / seen}

    while state.epoch < epochs:
        model.train()
        sums = state.sums.to(device)
        rest = batches(len(images), size, seed, state.epoch)[state.batch :]
        title = f"{label} epoch {state.epoch + 1}/{epochs}"
        for positions in track(rest, title, len(rest), "images", size):
            rate = learning_rate(
                settings["schedule"], settings["learning_rate"], state.epoch * steps + state.batch, epochs * steps
            )
            for group in state.optimizer.param_groups:
                group["lr"] = rate
            inputs = to_input(images[positions], **transform, device=device)
            inputs = augment(inputs, positions, key=seed * 1_000_003 + state.epoch + 1, **shifts)
            target = torch.from_numpy(labels[positions]).to(device)
            state.optimizer.zero_grad(set_to_none=True)
            with gradients_by_images:
                with autocast(device, compute):
                    output = model(inputs.contiguous(memory_format=torch.channels_last))
                loss, logits = loss_of(output, target, settings["label_smoothing"])
                state.scaler.scale(loss).backward()
            state.scaler.step(state.optimizer)
            state.scaler.update()
            right = (logits.argmax(1) == target).float().mean()
            sums += torch.stack([loss.detach(), right, torch.ones_like(right)]) * len(positions)
            state.batch += 1
            if partial is not None and time.monotonic() - saved > SAVE_EVERY:
                measured(sums)
                state.save(partial)
                saved = time.monotonic()
        state.history.append(measured(sums))
        say("{}: loss {loss:.4f}, training accuracy {accuracy:.4f}".format(title, **state.history[-1]))
        state.epoch, state.batch, state.sums = state.epoch + 1, 0, torch.zeros_like(state.sums)
        if partial is not None:
            state.save(partial)
            saved = time.monotonic()
    return state.history


def trial(
    model: nn.Module,
    images: np.ndarray | Selection,
    labels: np.ndarray,
    transform: dict[str, Any],
    settings: dict[str, Any],
    device: torch.device,
) -> Callable[[str], None]:
    """A function that runs one training batch forward and backward, on a copy of the network, in the precision it is given.

    Weights and statistics of the network and torch's random numbers stay as they are. The parameters are those of `train`.
    """
    model = copy.deepcopy(model).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    positions = batches(len(images), settings["batch_size"], 0, 0)[0]
    inputs = to_input(images[positions], **transform, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.from_numpy(labels[positions]).to(device)
    random = [device] if device.type == "cuda" else []

    def one_batch(compute: str) -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        with torch.random.fork_rng(random), by_images(device, compute):
            with autocast(device, compute):
                output = model(inputs)
            loss_of(output, target, settings["label_smoothing"])[0].backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return one_batch


@torch.inference_mode()
def predictions(
    model: nn.Module, images: np.ndarray | Selection, transform: dict[str, Any], device: torch.device, batch: int = 256
) -> np.ndarray:
    """(N,) int64: the network's answers, in evaluation mode and float32."""
    model.to(device).eval()
    answers = [
        model(to_input(images[start : start + batch], **transform, device=device)).argmax(1).cpu().numpy()
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(answers)
