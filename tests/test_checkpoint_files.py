"""Weights of other libraries: found, matched with the network, or called what they are with what to do about it."""

from __future__ import annotations

import argparse
import io
import os
import re
import shlex
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from calex.backbones.checkpoint import load_checkpoint
from calex.backbones.tensor_names import matches
from calex.errors import CalexError

torch.set_num_threads(1)


def network(seed: int = 1) -> nn.Module:
    """0 (a convolution), 1 (BatchNorm), 3 (a linear layer)."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))


GOOD, OTHER = network(1).state_dict(), network(2).state_dict()


def renamed(prefix: str, state: dict[str, torch.Tensor] = GOOD) -> dict[str, torch.Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def written(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def loads(path: Path, key: str | None = None, expected: dict[str, torch.Tensor] = GOOD):
    """Load into a network of other weights, and see that it has the expected ones now."""
    model = network(7)
    loaded = load_checkpoint(model, path, key)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.state_dict().items())
    return loaded


def refused(path: Path, key: str | None = None) -> str:
    """The one line with which a file is refused; the network stays what it was."""
    model = network(7)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(CalexError) as error:
        load_checkpoint(model, path, key)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert "\n" not in str(error.value)
    return str(error.value)


# What loads.

WRAPS = {
    "bare": dict,
    "ordered": OrderedDict,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3},
    "model": lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1.0}]}},
    "ema alone": lambda state: {"ema": state},
    "params_ema": lambda state: {"params_ema": state},
    "deep": lambda state: {"checkpoint": {"student": {"backbone": state}}},
    "a list": lambda state: [state],
    "beside numbers": lambda state: {**state, "epoch": 3, "loss": 0.5},
}  # fmt: skip
PREFIXES = ["", "module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.", "backbone.", "net._orig_mod.module.",
            "model.model.", "encoder.backbone."]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
@pytest.mark.parametrize("prefix", PREFIXES)
def test_a_state_dict_is_found_under_any_key_and_prefix(tmp_path, wrap, prefix):
    loaded = loads(written(tmp_path / "w.pt", WRAPS[wrap](renamed(prefix))))
    assert (loaded.others, loaded.left_out) == ([], [])


@pytest.mark.parametrize("prefix", ["", "module."])
def test_safetensors_are_read_with_what_they_say_of_themselves(tmp_path, prefix):
    save_file(renamed(prefix), tmp_path / "w.safetensors")
    loads(tmp_path / "w.safetensors")
    save_file(renamed(prefix), tmp_path / "w.safetensors", {"format": "pt", "input_size": "[3, 32, 32]"})
    assert loads(tmp_path / "w.safetensors").content["metadata"]["input_size"] == [3, 32, 32]


def test_the_content_of_a_file_counts_and_not_its_name(tmp_path):
    save_file(GOOD, tmp_path / "w.pt")
    written(tmp_path / "w.safetensors", GOOD)
    torch.save(GOOD, tmp_path / "old.pth.tar", _use_new_zipfile_serialization=False)
    for name in ("w.pt", "w.safetensors", "old.pth.tar"):
        loads(tmp_path / name)


@pytest.mark.parametrize("spell", [
    lambda name: name.replace("1.", "1._orig_mod.", 1) if name.startswith("1.") else name,
    lambda name: f"module.{name.replace('0.', '0.module.', 1)}",
    lambda name: f"model._orig_mod.{name}",
])  # fmt: skip
def test_wrappers_are_taken_out_of_the_middle_of_names(tmp_path, spell):
    loads(written(tmp_path / "w.pt", {spell(name): tensor for name, tensor in GOOD.items()}))


class Inside(nn.Module):
    """A network whose own names begin with a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self.add_module(word, network(7))


@pytest.mark.parametrize("word", ["module", "net", "backbone"])
@pytest.mark.parametrize("prefix", ["", "module.", "net.", "model.net."])
def test_a_prefix_may_be_the_networks_own(tmp_path, word, prefix):
    model = Inside(word)
    load_checkpoint(model, written(tmp_path / "w.pt", renamed(prefix)))
    assert all(torch.equal(tensor, GOOD[name.partition(".")[2]]) for name, tensor in model.state_dict().items())


def test_names_that_fit_as_they_are_are_not_changed():
    names = {"module.weight": (2,), "weight": (2,)}  # without wrappers both would be one
    (match,) = matches(names, names)
    assert match.names == {name: name for name in names}


def test_averaged_weights_have_a_counter_that_is_no_tensor_of_the_network(tmp_path):
    averaged = AveragedModel(network(1)).state_dict()
    assert "n_averaged" in averaged
    loaded = loads(written(tmp_path / "w.pt", averaged))
    assert loaded.left_out == []
    profiled = GOOD | {"total_ops": torch.ones(1), "0.total_params": torch.ones(1)}
    assert loads(written(tmp_path / "w.pt", profiled)).left_out == []


# Several weights in one file.


def test_the_raw_weights_are_taken_and_the_others_told(tmp_path):
    path = written(tmp_path / "w.pt", {"model": OTHER, "model_ema": AveragedModel(network(1)).state_dict()})
    loaded = loads(path, expected=OTHER)
    assert (loaded.key, loaded.others) == ("model", ["model_ema.module"])
    for key in ("model_ema", "model_ema.module"):
        assert loads(path, key).key == "model_ema.module"
    assert loads(path, "model", OTHER).others == ["model_ema.module"]


def test_two_networks_in_one_state_dict_are_two_candidates(tmp_path):
    path = written(tmp_path / "w.pt", {"state_dict": renamed("ema_model.") | renamed("model.", OTHER)})
    loaded = loads(path, expected=OTHER)
    assert (loaded.key, loaded.others, loaded.left_out) == ("state_dict.model", ["state_dict.ema_model"], [])
    loads(path, "state_dict.ema_model")
    path = written(tmp_path / "w.pt", renamed("", OTHER) | renamed("ema."))
    assert loads(path, expected=OTHER).others == ["ema"]
    loads(path, "ema")


def test_a_key_that_is_not_there_is_told_with_those_that_are(tmp_path):
    path = written(tmp_path / "w.pt", {"model": OTHER, "model_ema": GOOD})
    assert "checkpoint_key: nothing under 'model_em', did you mean 'model_ema'?" in refused(path, "model_em")
    assert "checkpoint_key: nothing under 'zzz', known: model, model_ema" in refused(path, "zzz")


def test_a_key_of_weights_that_do_not_fit_does_not_take_those_that_do(tmp_path):
    path = written(tmp_path / "w.pt", {"model": GOOD, "teacher": {"0.weight": torch.ones(2, 1, 5, 5)}})
    assert "under 'teacher' 1 tensors: 0.weight (2, 1, 5, 5)" in refused(path, "teacher")


# Tensors that are left out, and those that may not be.


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("extra", ["criterion.weight", "loss_fn.pos_weight", "train_metrics.acc.correct"])
def test_tensors_of_a_loss_are_told_and_left_out(tmp_path, prefix, extra):
    assert loads(written(tmp_path / "w.pt", renamed(prefix) | {extra: torch.ones(3)})).left_out == [extra]


def test_what_stands_outside_the_networks_prefix_is_told_and_left_out(tmp_path):
    held = renamed("backbone.") | {"projector.weight": torch.ones(2, 2), "projector.bias": torch.ones(2)}
    assert loads(written(tmp_path / "w.pt", held)).left_out == ["projector.weight", "projector.bias"]


def without(*names: str) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in GOOD.items() if name not in names}


SIDES = (
    r"; the file holds (under '\w+' )?\d+ tensors: .* \(.*\), …; the network wants 9 tensors: 0\.weight \(2, 1, 3, 3\), .*, …$"
)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
@pytest.mark.parametrize(
    ("weights", "told"),
    [
        (without("3.bias"), r"3\.bias is missing" + SIDES),
        (without("3.bias") | {"criterion.bias": torch.ones(3)}, r"3\.bias is missing"),
        (without() | {"extra.weight": torch.ones(1)}, r"{}extra\.weight is not in the network" + SIDES),
        (without() | {"3.extra": torch.ones(1)}, r"{}3\.extra is not in the network" + SIDES),
        (without() | {"3.weight": torch.ones(3, 9)}, r"3\.weight is \(3, 9\), not \(3, 8\)" + SIDES),
        (
            without() | {"3.weight": torch.ones(1000, 8), "3.bias": torch.ones(1000)},
            r"3\.weight is \(1000, 8\), not \(3, 8\); 3\.bias is \(1000,\), not \(3,\); "
            r"it has 1000 classes and the dataset has 3: set `head: probe` for a new last layer, or fine-tune it$",
        ),
        (
            without("0.bias", "3.bias") | {"1.x": torch.ones(1), "3.weight": torch.ones(4, 8)},
            r"0\.bias is missing; 3\.bias is missing; {}1\.x is not in the network and 1 more" + SIDES,
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named_and_both_sides_told(tmp_path, weights, told, prefix):
    line = refused(written(tmp_path / "w.pt", renamed(prefix, weights)))
    assert re.search("w\\.pt: does not fit the network: " + told.replace("{}", re.escape(prefix)), line), line


def test_another_network_is_refused_with_both_sides(tmp_path):
    other = {"features.0.weight": torch.ones(4, 3, 3, 3), "classifier.weight": torch.ones(10, 4)}
    line = refused(written(tmp_path / "w.pt", {"model": other}))
    assert "0.weight is missing" in line
    assert "the file holds under 'model' 2 tensors: features.0.weight (4, 3, 3, 3), classifier.weight (10, 4);" in line
    assert "the network wants 9 tensors: 0.weight (2, 1, 3, 3), 0.bias (2,), 1.weight (2,), …" in line


def test_position_embeddings_of_another_size_are_told():
    ours, theirs = {"pos_embed": (1, 5, 2), "x": (1,)}, {"pos_embed": (1, 17, 2), "x": (1,)}
    model = nn.Module()
    for name, shape in ours.items():
        model.register_parameter(name, nn.Parameter(torch.zeros(shape)))
    buffer = io.BytesIO()
    torch.save({name: torch.zeros(shape) for name, shape in theirs.items()}, buffer)
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"embeddings{os.getpid()}.pt"
    path.write_bytes(buffer.getvalue())
    try:
        with pytest.raises(CalexError, match="position embeddings are for another size of images: set the input_size"):
            load_checkpoint(model, path)
    finally:
        path.unlink()


def test_a_counter_of_batches_may_be_missing(tmp_path):
    model = network(7)
    load_checkpoint(
        model, written(tmp_path / "w.pt", without("1.num_batches_tracked") | {"1.running_var": torch.full((2,), 9.0)})
    )
    assert (model[1].running_var == 9).all()


def test_a_weight_that_is_no_number_is_refused(tmp_path):
    line = refused(written(tmp_path / "w.pt", GOOD | {"3.bias": torch.tensor([0, torch.inf, 0])}))
    assert "3.bias holds values that are not finite" in line


@pytest.mark.parametrize("content", [torch.ones(3), {"epoch": 3}, {"state_dict": {"weight": 1.0}}, [], {}])
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    line = refused(written(tmp_path / "odd.pt", content))
    assert "odd.pt: holds no state dict" in line and ("epoch" in line) == (content == {"epoch": 3})


# What is no checkpoint.


def zipped(path: Path, **files: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tarred(path: Path, mode: str) -> None:
    with tarfile.open(path, mode) as archive:
        archive.addfile(tarfile.TarInfo("weights.pt"))


PLAIN = {
    b"<!DOCTYPE html><html>404</html>": "a web page.*download it again",
    b"\n  <HTML><head>": "a web page",
    b"<?xml version='1.0'?><Error><Code>AccessDenied": "a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 44\n": "a pointer of Git LFS.*git lfs pull",
    b"../.git/annex/objects/1k/Zz/MD5E-s1.pt": "a pointer of git-annex",
    b"/annex/objects/SHA256E-s42--abc.pt\n": "a pointer of git-annex",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file, as Keras writes",
    b"\x08\x07\x12\x07pytorch\x1a\x052.3.0": "an ONNX model",
    b"\x1c\x00\x00\x00TFL3\x14\x00": "a TensorFlow Lite model",
    b"GGUF\x03\x00\x00\x00": "a GGUF file",
    b"\x1f\x8b\x08\x00": "a packed archive",
    b"7z\xbc\xaf\x27\x1c": "a packed archive",
    b'{"metadata": {"total_size": 5}, "weight_map": {}}': "a JSON text",
    b"": "of torch or safetensors but an empty file",
    b"not weights at all": r"of torch or safetensors \(it begins with 'not weights at all'\)",
    b"\x00\x01\x02": "of torch or safetensors; bring",
}
MADE = {
    "numpy": (lambda path: np.save(path.open("wb"), np.ones(3)), "a NumPy array"),
    "npz": (lambda path: np.savez(path.open("wb"), a=np.ones(3), b=np.ones(2)), r"a file of NumPy arrays \(\.npz\)"),
    "keras": (lambda path: zipped(path, **{"config.json": b"{}", "model.weights.h5": b""}), "a Keras model"),
    "pt2": (lambda path: zipped(path, **{"a/archive_format": b"pt2", "a/models/model.json": b""}), "a program of torch.export"),
    "zip": (lambda path: zipped(path, **{"run/best.pth": b"", "run/log.txt": b""}), r"a zip archive \(run/best\.pth, run/log\.txt\); unpack"),
    "tar": (lambda path: tarred(path, "w"), "a packed archive"),
    "tar.gz": (lambda path: tarred(path, "w:gz"), "a packed archive"),
    "folder": (lambda path: (path.mkdir(), (path / "model.bin").touch()), r"this is a folder \(it holds model\.bin\)"),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("content", PLAIN)
def test_files_are_called_what_they_are(tmp_path, content, suffix):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    assert re.search(rf"w{re.escape(suffix)}: not a checkpoint.*{PLAIN[content]}", refused(path)), refused(path)


@pytest.mark.parametrize("name", MADE)
def test_archives_of_other_things_are_called_what_they_are(tmp_path, name):
    make, told = MADE[name]
    make(tmp_path / "w.pt")
    assert re.search(rf"w\.pt: .*{told}", refused(tmp_path / "w.pt")), refused(tmp_path / "w.pt")


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_files_that_were_cut_short_are_one_line(tmp_path, suffix, old, share):
    path = tmp_path / f"bad{suffix}"
    if suffix == ".pt":
        torch.save(GOOD, path, _use_new_zipfile_serialization=not old)
    else:
        save_file(GOOD, path)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    assert re.search(r"bad\.(pt|safetensors): not a", refused(path)), refused(path)


@pytest.mark.parametrize("content", [b"\x80\x02}", b"\x80\x04\x95", b"\x80\x05}q."])
def test_pickles_that_are_no_checkpoints_are_one_line(tmp_path, content):
    (tmp_path / "w.pt").write_bytes(content)
    assert re.search(r"w\.pt: not a", refused(tmp_path / "w.pt"))


def test_a_missing_file_is_named(tmp_path):
    assert "none.pt: no such checkpoint; check the backbone's `checkpoint` key" in refused(tmp_path / "none.pt")


# Pickles of more than tensors: never read, and the line that converts them does.


class Owned(nn.Module):
    """A class of the user's, so that a pickle of it names more than torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = network(1)


def convert(line: str) -> None:
    """Run the command that an error gives."""
    python, flag, code = shlex.split(line[line.index("python -c ") :])
    assert (python, flag) == ("python", "-c")
    exec(code, {})


OBJECTS = {
    "a NumPy number": ({"state_dict": GOOD, "best": np.float64(0.9)}, r"it holds numpy\.\S+, which is not loaded"),
    "arguments": ({"model": GOOD, "args": argparse.Namespace(lr=0.1)}, r"it holds argparse\.Namespace, which is not loaded"),
    "a path": ({"net": GOOD, "from": Path("x")}, r"it holds pathlib\.\w+, which is not loaded"),
    "a bare one with a path": (OrderedDict(GOOD, at=Path("x")), r"it holds pathlib\.\w+, which is not loaded"),
    "a whole network": (network(1), r"a whole pickled network \(torch\.nn\.modules\.\S+\)"),
    "a network under a key": ({"model": network(1), "epoch": 3}, r"a whole pickled network \(torch\.nn\.modules\.\S+\)"),
}


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("name", OBJECTS)
def test_the_forbidden_type_is_named_with_a_command_that_converts(tmp_path, name, old):
    content, told = OBJECTS[name]
    path = tmp_path / "it's w.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not old)
    line = refused(path)
    assert re.search(
        rf"w\.pt: not a checkpoint of plain tensors: {told}.*; if you trust the file, make one of it with", line
    ), line
    convert(line)
    if name == "a bare one with a path":  # what is left still is no plain dict
        return
    loads(tmp_path / "it's w_weights.pt")


def test_a_network_of_ones_own_class_is_called_by_it(tmp_path):
    path = written(tmp_path / "w.pt", Owned())
    assert f"a whole pickled network ({Owned.__module__}.Owned)" in refused(path)


def test_a_torchscript_archive_is_named_with_a_command_that_converts(tmp_path):
    torch.jit.save(torch.jit.script(network(1)), tmp_path / "w.pt")
    line = refused(tmp_path / "w.pt")
    assert "a TorchScript archive" in line
    convert(line)
    loads(tmp_path / "w_weights.pt")


class Evil:
    """A pickle that runs a command when it is read."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    "content", [lambda evil: evil, lambda evil: {"state_dict": evil}, lambda evil: {"weight": torch.ones(1), "x": evil}]
)
def test_a_pickle_that_would_run_code_is_refused(tmp_path, content, old):
    path = tmp_path / "evil.pt"
    torch.save(content(Evil(tmp_path / "victim")), path, _use_new_zipfile_serialization=not old)
    assert not (tmp_path / "victim").exists()
    assert re.search(r"evil\.pt: not a checkpoint of plain tensors: it holds \w+\.mkdir, which is not loaded", refused(path))
    assert not (tmp_path / "victim").exists()
    torch.load(path, weights_only=False)  # so that the test would notice: read without care, it does run
    assert (tmp_path / "victim").exists()
