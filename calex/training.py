"""Training a backbone from scratch, before it is frozen: the plain sound recipe, nothing that selects on validation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from calex.errors import CalexError
from calex.progress import say, track
from calex.transform import augment, to_input


def batches(count: int, size: int, generator: np.random.Generator) -> Iterator[np.ndarray]:
    """A shuffled epoch as (B,) int64 positions. A last batch of one is left out: BatchNorm cannot train on it."""
    order = generator.permutation(count)
    for start in range(0, count, size):
        if count - start > 1:
            yield order[start : start + size]


def train(
    model: nn.Module,
    images: np.ndarray,
    labels: np.ndarray,
    transform: dict[str, Any],
    shift: int,
    flip: bool,
    settings: dict[str, Any],
    seed: int,
    device: torch.device,
    label: str,
) -> list[dict[str, float]]:
    """Fit the network to (N, H, W, C) uint8 images by SGD with Nesterov momentum and a one-cycle learning rate.

    It trains to its last epoch, whatever that gives. `transform` is `to_input`'s size, mean and std. Returns each
    epoch's mean loss and training accuracy. A loss that is not finite is an error.
    """
    size, epochs = settings["batch_size"], settings["epochs"]
    steps = math.ceil(len(images) / size)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings["learning_rate"],
        momentum=settings["momentum"],
        weight_decay=settings["weight_decay"],
        nesterov=settings["momentum"] > 0,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=settings["learning_rate"], total_steps=max(epochs * steps, 1), pct_start=0.25, cycle_momentum=False
    )
    generator = np.random.default_rng(seed)
    history = []
    for epoch in range(epochs):
        model.train()
        loss_sum = torch.zeros((), device=device)
        right = torch.zeros((), device=device)
        seen = 0
        progress = track(batches(len(images), size, generator), f"{label} epoch {epoch + 1}/{epochs}", steps, "images", size)
        for positions in progress:
            inputs = to_input(images[positions], **transform, device=device)
            inputs = augment(inputs, positions, key=seed * 1_000_003 + epoch + 1, shift=shift, flip=flip)
            target = torch.from_numpy(labels[positions]).to(device)
            logits = model(inputs.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(logits, target, label_smoothing=settings["label_smoothing"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            loss_sum += loss.detach() * len(positions)
            right += (logits.detach().argmax(1) == target).sum()
            seen += len(positions)
        mean_loss = float(loss_sum) / seen
        if not math.isfinite(mean_loss):
            raise CalexError(f"{label}: the loss became {mean_loss} in epoch {epoch + 1}; lower training.learning_rate")
        history.append({"loss": mean_loss, "accuracy": float(right) / seen})
        say(f"{label} epoch {epoch + 1}/{epochs}: loss {mean_loss:.4f}, training accuracy {history[-1]['accuracy']:.4f}")
    return history


@torch.inference_mode()
def predictions(
    model: nn.Module, images: np.ndarray, transform: dict[str, Any], device: torch.device, batch: int = 256
) -> np.ndarray:
    """(N,) int64: the network's answers, in evaluation mode."""
    model.to(device).eval()
    answers = [
        model(to_input(images[start : start + batch], **transform, device=device)).argmax(1).cpu().numpy()
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(answers)
