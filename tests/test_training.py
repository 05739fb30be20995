"""Training a backbone: its schedule, its precision, and that a kill costs nothing but time."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import REPOSITORY
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from calex import images
from calex.__main__ import main
from calex.backbones import training
from calex.errors import CalexError
from calex.steps import train_backbone
from calex.system import precision
from calex.system.files import canonical_json, read_json, sha256

CPU = torch.device("cpu")
SETTINGS = {
    "epochs": 4, "batch_size": 16, "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0005, "label_smoothing": 0.0,
    "schedule": "onecycle", "compute": "float32",
}  # fmt: skip
SCALE = {"size": 8, "mean": [0.5] * 3, "std": [0.25] * 3}
NET = """
import os
import pickle
import time
from torch import nn

class Net(nn.Sequential):
    def forward(self, x):
        time.sleep(float(os.environ.get("SECONDS_A_BATCH", 0)))
        return super().forward(x)

def net(classes):
    return Net(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2), nn.Flatten(), nn.Linear(1024, classes)
    )
"""


def made_up(count: int = 70) -> tuple[np.ndarray, np.ndarray]:
    """Images whose brightness tells their class."""
    generator = np.random.default_rng(0)
    labels = np.arange(count) % 4
    pixels = generator.integers(0, 60, (count, 8, 8, 1)) + 60 * labels[:, None, None, None]
    return pixels.astype(np.uint8), labels.astype(np.int64)


def small() -> nn.Module:
    torch.manual_seed(3)
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.2), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(32, 4))


def fit(model: nn.Module, partial: Path | None = None, **changed):
    settings = SETTINGS | changed
    shifts = {"shift": 1, "flip": True}
    return training.train(model, *made_up(), SCALE, shifts, settings, 5, settings["compute"], CPU, "train", partial)


# The schedule.


@pytest.mark.parametrize("steps", [8, 10, 400])
def test_one_cycle_is_that_of_torch(steps):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    reference = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.3, total_steps=steps, pct_start=0.25, cycle_momentum=False)
    for step in range(steps):
        assert training.learning_rate("onecycle", 0.3, step, steps) == pytest.approx(reference.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        reference.step()


def test_cosine_is_half_a_cosine():
    # (1 + cos(π·k/4)) / 2 at k = 0 … 3: 1, 0.853…, 0.5, 0.146…
    rates = [training.learning_rate("cosine", 0.2, step, 4) for step in range(4)]
    assert rates == pytest.approx([0.2, 0.2 * (2 + 2**0.5) / 4, 0.1, 0.2 * (2 - 2**0.5) / 4])


@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
@pytest.mark.parametrize("steps", range(1, 9))
def test_short_schedules_stay_within_their_peak(schedule, steps):
    rates = [training.learning_rate(schedule, 1.0, step, steps) for step in range(steps)]
    assert all(0 < rate <= 1 for rate in rates)
    assert max(rates) > 0.5


# What is learnt.


def test_an_epoch_is_each_image_once_and_none_alone():
    for count, expected in ((70, 70), (65, 64), (16, 16)):
        found = training.batches(count, 16, 0, 2)
        assert len(np.unique(np.concatenate(found))) == sum(map(len, found)) == expected
        assert min(map(len, found)) > 1
    one, other = (np.concatenate(training.batches(70, 16, 0, epoch)) for epoch in (0, 1))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("schedule", ["onecycle", "cosine"])
def test_it_learns_what_can_be_learnt(schedule, compute):
    model = small()
    history = fit(model, schedule=schedule, compute=compute, epochs=12)
    pixels, labels = made_up()
    assert history[-1]["loss"] < history[0]["loss"] / 2
    assert (training.predictions(model, pixels, SCALE, CPU) == labels).mean() > 0.9
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values() if tensor.is_floating_point())


def test_auxiliary_logits_count_three_tenths():
    logits, first, second = torch.randn(3, 5, 4)
    target = torch.tensor([0, 1, 2, 3, 0])
    found, answers = training.loss_of((logits, first, second), target, 0.1)
    one = [F.cross_entropy(part, target, label_smoothing=0.1) for part in (logits, first, second)]
    assert float(found) == pytest.approx(float(one[0] + 0.3 * one[1] + 0.3 * one[2]))
    assert torch.equal(answers, logits)
    assert float(training.loss_of(logits, target, 0.1)[0]) == pytest.approx(float(one[0]))


def test_a_loss_that_is_not_finite_is_an_error_and_is_not_saved(tmp_path):
    with pytest.raises(CalexError, match=r"the loss became (nan|inf) in epoch \d; lower training\.learning_rate"):
        fit(small(), tmp_path / "state", learning_rate=1e30)
    if (tmp_path / "state").exists():  # of an epoch before
        assert all(np.isfinite(epoch["loss"]) for epoch in torch.load(tmp_path / "state")["history"])


@pytest.mark.parametrize("compute", precision.candidates(CPU))
def test_a_trial_leaves_no_trace(compute):
    model = small()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    training.trial(model, *made_up(), SCALE, SETTINGS, CPU)(compute)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


# Stopping and going on.


class Stop(Exception):
    pass


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("calls", [1, 3, 7, 12])
def test_a_run_that_stopped_anywhere_ends_in_the_same_weights(tmp_path, monkeypatch, calls, compute):
    # 70 images in batches of 16 are five steps an epoch: the stops are inside the first, second and third.
    undisturbed = small()
    history = fit(undisturbed, compute=compute)
    monkeypatch.setattr(training, "SAVE_EVERY", 0.0)  # after every step
    model, count = small(), 0

    def stop(*_: object) -> None:
        nonlocal count
        count += 1
        if count > calls:
            raise Stop

    handle = model.register_forward_pre_hook(stop)
    with pytest.raises(Stop):
        fit(model, tmp_path / "state", compute=compute)
    handle.remove()
    torch.manual_seed(999)  # another process has drawn other numbers
    steps = 0

    def step(*_: object) -> None:
        nonlocal steps
        steps += 1

    again = small()
    again.register_forward_pre_hook(step)
    assert fit(again, tmp_path / "state", compute=compute) == history
    assert steps == 20 - calls
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in undisturbed.state_dict().items())


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, second = small(), small()
    assert fit(first, tmp_path / "state") == fit(second, tmp_path / "state")
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_a_damaged_state_is_one_line(tmp_path):
    (tmp_path / "state").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(CalexError, match=r"state: not a readable state of a training run .*; delete it and rerun"):
        fit(small(), tmp_path / "state")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a dataset and a network of one's own."""
    folder = tmp_path_factory.mktemp("training")
    pixels, labels = made_up(160)
    split = (np.arange(160) // 4 % 4).clip(1, 3).astype(np.uint8) - 1
    images.save(folder / "images.npz", images.Images(pixels, labels, split, np.array(list("abcd"))))
    (folder / "killed_net.py").write_text(NET)
    return folder


def command(out: Path, epochs: int = 60, **changed: object) -> list[str]:
    settings = {
        "network": "killed_net:net", "stem": "imagenet", "input_size": 8, "augment": {"shift": 1, "flip": True},
        "normalisation": None, "training": SETTINGS | {"epochs": epochs, "batch_size": 8} | changed, "seed": 1,
        "trained_on": ["train"], "head_holdout": 0,
    }  # fmt: skip
    return [
        "train-backbone", "--dataset", "images.npz", "--settings", canonical_json(settings), "--device", "cpu",
        "--threads", "1", "--out", str(out),
    ]  # fmt: skip


def partials(out: Path) -> list[Path]:
    return sorted(out.parent.glob("*.partial"))


def saved_epochs(out: Path) -> int:
    """Of a training that may be writing, or have been killed while it wrote: then the smaller files are not whole."""
    try:
        return torch.load(max(partials(out), key=lambda path: path.stat().st_size))["epoch"]
    except (ValueError, OSError, RuntimeError, EOFError, pickle.UnpicklingError):
        return 0  # none yet, renamed meanwhile, or half-written


def test_a_kill_costs_nothing_but_time(place, monkeypatch):
    """A real process, a real kill -9, and weights that are the same to the bit.

    The training that is killed takes its time, a minute at the least: it must not end before it is seen to have begun.
    """
    out = place / "killed" / "backbone.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-m", "calex", *command(out)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY), "SECONDS_A_BATCH": "0.1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while saved_epochs(out) < 1 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said
    assert not out.exists()
    assert all(path.name.startswith(".backbone.safetensors.") for path in partials(out))
    assert 0 < saved_epochs(out) < 60
    (place / "killed" / ".backbone.safetensors.0123456789abcdef.partial").write_bytes(b"of other settings")

    monkeypatch.chdir(place)
    assert main(command(out)) == 0
    assert sorted(path.name for path in out.parent.iterdir()) == ["backbone.json", "backbone.safetensors"]
    plain = place / "undisturbed" / "backbone.safetensors"
    assert main(command(plain)) == 0
    assert plain.read_bytes() == out.read_bytes()
    assert read_json(plain.with_suffix(".json")) == read_json(out.with_suffix(".json"))
    assert read_json(out.with_suffix(".json"))["fingerprint"] == sha256(out.read_bytes())


def test_a_run_that_goes_on_keeps_its_precision(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    out, finish = place / "precision" / "backbone.safetensors", train_backbone.finish
    monkeypatch.setattr(train_backbone, "finish", lambda *_: (_ for _ in ()).throw(CalexError("stopped")))
    monkeypatch.setattr(precision, "measure", lambda *_: {"float32": 0.2, "bfloat16": 0.1})
    assert main(command(out, epochs=1, compute="auto")) == 2
    monkeypatch.setattr(train_backbone, "finish", finish)
    monkeypatch.setattr(precision, "measure", lambda *_: {"float32": 0.2, "bfloat16": 8.0})  # busy by now
    capsys.readouterr()
    assert main(command(out, epochs=1, compute="auto")) == 0
    assert "going on after 1 of 1 epochs" in capsys.readouterr().err
    record = read_json(out.with_suffix(".json"))
    assert record["compute"] == "bfloat16" and "seconds" not in str(record)
    assert read_json(out.with_suffix(".precision.json"))["seconds"] == {"float32": 0.2, "bfloat16": 0.1}
    assert main(command(out, epochs=1, compute="auto")) == 0  # made again, it is the same
    assert read_json(out.with_suffix(".json")) == record


def test_float16_is_trained_on_a_gpu_alone(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert main(command(place / "half" / "backbone.safetensors", compute="float16")) == 2
    assert "training.compute: float16 needs a GPU, not cpu; use bfloat16, float32 or auto" in capsys.readouterr().err


def test_other_settings_do_not_go_on_from_there(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    out = place / "other" / "backbone.safetensors"
    monkeypatch.setattr("calex.steps.train_backbone.finish", lambda *_: (_ for _ in ()).throw(CalexError("stopped")))
    assert main(command(out, epochs=1)) == 2
    assert main(command(out, epochs=1, schedule="cosine")) == 2
    assert len(partials(out)) == 2
    capsys.readouterr()
    assert main(command(out, epochs=1)) == 2
    assert "going on after 1 of 1 epochs" in capsys.readouterr().err
    (place / "killed_net.py").write_text(NET + "\n# edited\n")
    try:
        assert main(command(out, epochs=1)) == 2
    finally:
        (place / "killed_net.py").write_text(NET)
    assert "going on" not in capsys.readouterr().err
    assert not out.exists()


def test_a_second_training_of_the_same_weights_is_refused(place, monkeypatch, capsys):
    from calex.system.locks import guard_of, locked

    monkeypatch.chdir(place)
    out = place / "twice" / "backbone.safetensors"
    with locked(guard_of(out), "training of this backbone"):
        assert main(command(out, epochs=1)) == 2
    assert "another training of this backbone is running; wait for it or end it" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []
    assert main(command(out, epochs=1)) == 0
    assert set(load_file(out)) >= {"0.weight", "5.bias"}
