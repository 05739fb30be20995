"""Reading a file of weights by what it holds, whatever its name says; what holds no weights is called what it is."""

from __future__ import annotations

import json
import pickletools
import re
import shlex
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from calex.errors import CalexError

# Modules whose types stand beside tensors in any pickle.
PLAIN = ("torch.", "collections.", "builtins.", "__builtin__.", "_codecs.")

# How files begin that are no weights for torch: what each is, and what to do.
KINDS: list[tuple[bytes, str, str]] = [
    (rb"\s*<(!doctype html|html|\?xml|head|!--)", "a web page, as servers send when a download fails", "download it again"),
    (rb"version https://git-lfs\.github\.com", "a pointer of Git LFS, not the file itself", "run `git lfs pull` where it came from"),
    (rb"/?(\.\./)*(\.git/)?annex/objects/", "a pointer of git-annex, not the file itself", "run `git annex get` where it came from"),
    (rb"\x93NUMPY", "a NumPy array", "save the network's state_dict() with torch.save"),
    (rb"\x89HDF\r\n", "an HDF5 file, as Keras writes", "bring weights of the network in PyTorch, as a state dict"),
    (rb"\x08[\x01-\x20]\x12|\x08[\x01-\x20]:", "an ONNX model", "bring the PyTorch network's state_dict()"),
    (rb".{4}TFL3", "a TensorFlow Lite model", "bring the PyTorch network's state_dict()"),
    (rb"GGUF", "a GGUF file", "bring the PyTorch network's state_dict()"),
    (rb"\x1f\x8b|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!|.{257}ustar", "a packed archive", "unpack it and give the file inside"),
    (rb"\s*[\[{]", "a JSON text", "give the file of weights; a network in several files has to be saved as one"),
]  # fmt: skip


def read(path: str | Path) -> Any:
    """Read a .safetensors or torch file: tensors, and containers of plain values around them.

    Nothing of a pickle but tensors and plain values is loaded. A .safetensors file with text beside its tensors gives
    {"state_dict": tensors, "metadata": text}.

    Raises CalexError that says what the file is, if it is something else.
    """
    path = Path(path)
    if path.is_dir():
        held = sorted(file.name for file in path.iterdir() if file.is_file())
        inside = f"it holds {', '.join(held[:3])}{', …' if len(held) > 3 else ''}" if held else "it holds no files"
        raise CalexError(f"{path}: no such checkpoint, this is a folder ({inside}); give the file of weights")
    if not path.is_file():
        raise CalexError(f"{path}: no such checkpoint; check the backbone's `checkpoint` key")
    with open(path, "rb") as file:
        head = file.read(512)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return _safetensors(path)
    if head[:2] == b"PK":
        return _zip(path)
    if head[:1] == b"\x80":
        return _torch(path, lambda: open(path, "rb"))
    for pattern, what, remedy in KINDS:
        if re.match(pattern, head, re.DOTALL | re.IGNORECASE):
            raise CalexError(f"{path}: not a checkpoint but {what}; {remedy}")
    raise CalexError(f"{path}: not a checkpoint of torch or safetensors{_beginning(head)}; bring the network's state_dict()")


def _beginning(head: bytes) -> str:
    if not head:
        return " but an empty file"
    text = head[:60].decode("ascii", errors="replace").splitlines()[0][:40]
    return f" (it begins with {text!r})" if text.isprintable() and "\N{REPLACEMENT CHARACTER}" not in text else ""


def _damaged(path: Path, error: Exception) -> CalexError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return CalexError(f"{path}: not a readable checkpoint ({reason}); it may be incomplete, copy it again")


def _safetensors(path: Path) -> Any:
    try:
        weights = load_file(path)
        with safe_open(path, framework="pt") as file:
            metadata = {key: _parsed(value) for key, value in (file.metadata() or {}).items()}
    except (SafetensorError, RuntimeError, ValueError, OSError) as error:
        raise _damaged(path, error) from None
    return {"state_dict": weights, "metadata": metadata} if metadata else weights


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _zip(path: Path) -> Any:
    """Read what torch.save writes, or name one of the many other things that are zip archives."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from None
    inner = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        command = _conversion(path, f"torch.jit.load({str(path)!r}).state_dict()")
        raise CalexError(f"{path}: not a checkpoint but a TorchScript archive, a program; make one of it with {command}")
    pickle = next((name for name in names if name.split("/", 1)[-1] == "data.pkl"), None)
    if pickle is not None:
        return _torch(path, lambda: zipfile.ZipFile(path).open(pickle))
    if any(name.endswith(".h5") for name in names) and "config.json" in names:
        what = "a Keras model; bring weights of the network in PyTorch, as a state dict"
    elif "archive_format" in inner or any(name.endswith("models/model.json") for name in names):
        what = "a program of torch.export; bring the network's state_dict()"
    elif names and all(name.endswith(".npy") for name in names):
        what = "a file of NumPy arrays (.npz); bring the network's state_dict(), saved with torch.save"
    else:
        what = (
            f"a zip archive ({', '.join(names[:3])}{', …' if len(names) > 3 else ''}); unpack it and give the file of weights"
        )
    raise CalexError(f"{path}: not a checkpoint but {what}")


def _torch(path: Path, pickle: Callable[[], IO[bytes]]) -> Any:
    try:
        with open(path, "rb") as file:  # of a path torch would go by the suffix
            return torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, ValueError, EOFError, OSError) as error:
        raise _damaged(path, error) from None
    except Exception as error:  # pickle's errors have no common base
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise _forbidden(path, named[1] if named else None, pickle) from None


def _forbidden(path: Path, kind: str | None, pickle: Callable[[], IO[bytes]]) -> CalexError:
    """Say what a pickle holds more than tensors and plain values, of which torch named the first kind."""
    named, texts = _inventory(pickle)
    foreign = [name for name in named if not name.startswith(PLAIN)]
    modules = [name for name in named if name.startswith("torch.nn.modules.")]
    if modules:
        what = f"a whole pickled network ({(foreign or modules)[0]})"
        key = _first(("model", "net", "network", "ema"), texts)
        part = f"[{key!r}].state_dict()" if key else ".state_dict()"
    elif kind or foreign:
        what = f"it holds {kind or foreign[0]}, which is not loaded because reading it can run code"
        key = _first(("state_dict", "model", "model_state_dict", "net", "ema"), texts)
        part = f"[{key!r}]" if key else ""
    else:
        return CalexError(
            f"{path}: not a checkpoint of plain tensors, nor a pickle that can be read; save the network's state_dict()"
        )
    command = _conversion(path, f"torch.load({str(path)!r}, 'cpu', weights_only=False){part}")
    return CalexError(
        f"{path}: not a checkpoint of plain tensors: {what}; if you trust the file, make one of it with {command}"
    )


def _first(keys: tuple[str, ...], texts: set[str]) -> str | None:
    return next((key for key in keys if key in texts), None)


def _conversion(path: Path, weights: str) -> str:
    """Make a command that saves what an expression gives, in a file beside this one."""
    target = str(path.with_name(f"{path.stem}_weights.pt"))
    return f"python -c {shlex.quote(f'import torch; torch.save({weights}, {target!r})')}"


def _inventory(pickle: Callable[[], IO[bytes]]) -> tuple[list[str], set[str]]:
    """Of a pickle, without running it: the types and functions that it names, in order, and its texts."""
    named, texts, recent = list[str](), set[str](), list[str]()
    try:
        with pickle() as file:
            for _ in range(5):  # older files of torch are several pickles, one after the other
                for operation, argument, _ in pickletools.genops(file):
                    if operation.name == "GLOBAL":
                        named.append(str(argument).replace(" ", "."))
                    elif operation.name == "STACK_GLOBAL":
                        named.append(".".join(recent[-2:]))
                    elif isinstance(argument, str):
                        recent.append(argument)
                        texts.add(argument)
    except Exception:  # the last pickle of a file is followed by other data
        pass
    return named, texts
