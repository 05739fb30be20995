"""A cascade's stages, each with its branch, as one ONNX file a stage: `calex.deploy.onnx.OnnxCascade` runs them without torch.

What goes in: what is carried of the network, and from the second stage on, where exits need each other, `before`. What comes out:
`log_probabilities`, where the score is the confidence `confidence`, `before_next`, and what is carried on.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from calex.backbones.maps import MapLayout, as_map
from calex.backbones.taps import pooled
from calex.backbones.transform import to_input
from calex.deploy.carrying import ROWS
from calex.deploy.cascade import Cascade
from calex.deploy.record import PREPARE, onnx_file
from calex.errors import CalexError, one_line
from calex.system.progress import say

NEEDED = ("onnx", "onnxscript")
IMAGES = 3  # in the example that is traced; the number of images stays open


class _Whole(nn.Module):
    """A stage with its branch, from tensors to tensors."""

    def __init__(self, cascade: Cascade, k: int, joined: bool) -> None:
        super().__init__()
        self.stage, self.branches, self.k, self.joined = cascade.stages[k], cascade.branches, k, joined
        about = cascade.about
        self.layouts = [MapLayout(**layout) for layout in about["layouts"]]
        self.confident, self.pool, self.dtype = (
            about["score"] == "confidence",
            about["pool"],
            getattr(torch, about["precision"]),
        )

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        before, values = (values[-1], values[:-1]) if self.joined else (None, values)
        output, *carried = self.stage(*values)
        if self.k == len(self.branches.branches):
            return (output.log_softmax(1),)
        tap = pooled(as_map(output, self.layouts[self.k]), self.pool).to(self.dtype).float()
        exit, before = self.branches.exit(self.k, tap, before, self.confident)
        given = [exit.logits.log_softmax(1)]
        given += [exit.confidence.sigmoid()] if self.confident else []  # type: ignore[union-attr]
        return (*given, *([] if before is None else [before]), *carried)


class _Prepare(nn.Module):
    """Pixels (B, S, S, channels) uint8 → what the network reads."""

    def __init__(self, transform: dict[str, Any]) -> None:
        super().__init__()
        self.transform = transform

    def forward(self, *pixels: torch.Tensor) -> torch.Tensor:
        return to_input(pixels[0], **self.transform, device=torch.device("cpu"))


def names(
    k: int, stages: int, carried: int, following: int, confident: bool, joined: tuple[bool, bool]
) -> tuple[list[str], list[str]]:
    """Name what goes into stage k and comes out of it; joined: whether the exit before gives it something, and whether it gives."""
    into = [f"carried{n}" for n in range(carried)] + (["before"] if joined[0] else [])
    if k == stages - 1:
        return into, ["log_probabilities"]
    out = ["log_probabilities", *(["confidence"] if confident else []), *(["before_next"] if joined[1] else [])]
    return into, [*out, *(f"next{n}" for n in range(following))]


@torch.no_grad()
def exported(cascade: Cascade) -> dict[str, bytes]:
    """Return the ONNX files of a cascade by name.

    Raises CalexError where a package is missing, and for a stage that has no ONNX form.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise CalexError(f"onnx: {' and '.join(missing)} must be installed to export ONNX; pip install -e '.[onnx]'")
    about, count = cascade.about, len(cascade.stages)
    if cascade.device.type != "cpu":
        raise CalexError("onnx: the cascade is exported from the CPU; move it there, .to('cpu')")
    size = about["transform"]["size"]
    picture = about["picture"]
    if picture is None:
        raise CalexError("onnx: the images that this cascade learnt from are not square, which ONNX is not exported with")
    pixels = torch.zeros(IMAGES, picture["size"], picture["size"], 1 if picture["grey"] else 3, dtype=torch.uint8)
    files = {PREPARE: _file(_Prepare(about["transform"]), [pixels], ["pixels"], ["inputs"])}
    values: list[Any] = [torch.zeros(IMAGES, about["channels"], size, size)]
    before = None
    for k in range(count):
        kinds = cascade.carried[k]
        if any(kind != ROWS for kind in kinds):
            raise CalexError(
                "onnx: something else than rows of images is carried past a tap, which ONNX is not exported with; tap other modules"
            )
        whole = _Whole(cascade, k, before is not None).eval()
        given = [*values, *([] if before is None else [before])]
        outputs = whole(*given)
        confident = about["score"] == "confidence"
        _, _, following, next_before = cascade.run(k, values, before)
        into, out = names(
            k, count, len(values), len(following), confident, (before is not None, next_before is not None and k < count - 1)
        )
        assert len(out) == len(outputs)
        files[onnx_file(k)] = _file(whole, given, into, out)
        values, before = list(following), next_before
        say(f"onnx: stage {k + 1} of {count}, {len(files[onnx_file(k)]) / 1e6:.1f} MB")
    return files


def _file(whole: nn.Module, given: list[torch.Tensor], into: list[str], out: list[str]) -> bytes:
    batch = torch.export.Dim("batch", max=1 << 20)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                whole, tuple(given), dynamo=True, dynamic_shapes=(tuple({0: batch} for _ in given),), input_names=into, output_names=out,
                verbose=False,
            )  # fmt: skip
        assert program is not None
        return program.model_proto.SerializeToString()
    except Exception as error:  # the network's code, or the exporter's: anything can happen
        raise CalexError(f"onnx: a stage cannot be exported ({one_line(error)}); export without --onnx") from None
