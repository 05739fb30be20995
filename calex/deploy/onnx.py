"""A cascade over onnxruntime: the same folder, the same routing, without torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from calex.deploy import pictures
from calex.deploy.carrying import ROWS
from calex.deploy.record import AGAIN, PREPARE, WEIGHTS, onnx_file, read_file, read_record, sweep_of
from calex.deploy.routing import Answers, route
from calex.deploy.sweep import Sweep, Wish
from calex.errors import CalexError, one_line

CHUNK = 256  # pictures that are read and answered at a time


class OnnxCascade:
    """A cascade whose stages onnxruntime computes; it is used as `calex.Cascade` is, and gives NumPy arrays.

    It needs onnxruntime (`pip install onnxruntime`) and no torch.

        cascade = calex.load_onnx("results/digits/resnet18/cascade")
        answers = cascade.classify(["cat.jpg", "dog.png"])

    Attributes
    ----------
    classes : list of str
        The names of the classes.
    sweep : calex.deploy.sweep.Sweep
        All operating points.
    point : int
        The one that it works at.
    about : dict
        What cascade.json says.
    """

    def __init__(self, prepare: Any, stages: Sequence[Any], sweep: Sweep, about: dict[str, Any], point: int) -> None:
        self.preparing, self.stages, self.sweep, self.about, self.point = prepare, list(stages), sweep, about, point
        self.classes: list[str] = about["classes"]
        self.carried = [(ROWS,) * sum(into.name != "before" for into in stage.get_inputs()) for stage in self.stages]

    def at(
        self, *, max_flops: float | None = None, min_accuracy: float | None = None, max_drop: float | None = None
    ) -> OnnxCascade:
        """Give the same cascade at another operating point, as `calex.Cascade.at` does."""
        other = copy.copy(self)
        other.point = self.sweep.choose(Wish(max_flops, min_accuracy, max_drop))
        return other

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """(B, S, S, 1 or 3) uint8, sized as the stored images → (B, channels, S, S) float32, as the network reads images."""
        (into,) = self.preparing.get_inputs()
        if tuple(pixels.shape[1:]) != tuple(into.shape[1:]):
            raise CalexError(
                f"pixels are {pixels.shape[1:]} and the exported preparation reads {tuple(into.shape[1:])}; resize them"
            )
        (inputs,) = self.preparing.run(None, {into.name: np.ascontiguousarray(pixels)})
        return inputs

    def classify(self, images: np.ndarray | Sequence[str | Path]) -> Answers:
        """Answer pixels (B, S, S, 1 or 3) uint8, or the files of pictures."""
        answers = []
        for start in range(0, max(len(images), 1), CHUNK):
            some = images[start : start + CHUNK]
            if not isinstance(some, np.ndarray):
                some = np.stack([pictures.read(path, self.about["picture"]) for path in some])
            answers.append(self(self.prepare(some)))
        return Answers(*(np.concatenate(parts) for parts in zip(*answers, strict=True)))

    def __call__(self, inputs: np.ndarray) -> Answers:
        """Answer (B, channels, S, S) float32."""
        return route(self, inputs, self.sweep.rule(self.point), self.about["score"], self.about["last"])

    def run(
        self, stage: int, values: Sequence[Any], before: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None, Sequence[Any], np.ndarray | None]:
        """Compute a stage and its branch: see `calex.deploy.routing.Runtime`."""
        session = self.stages[stage]
        given = {f"carried{n}": value for n, value in enumerate(values)} | ({} if before is None else {"before": before})
        names = [output.name for output in session.get_outputs()]
        outputs = dict(zip(names, session.run(names, given), strict=True))
        carried = [outputs[name] for name in names if name.startswith("next")]
        return outputs["log_probabilities"], outputs.get("confidence"), carried, outputs.get("before_next")

    def rows(self, images: np.ndarray) -> np.ndarray:
        """Make positions an index: see `calex.deploy.routing.Runtime`."""
        return images


def read(folder: str | Path, threads: int = 0) -> OnnxCascade:
    """Load a cascade's ONNX files, which it has if it was exported with `--onnx`.

    Parameters
    ----------
    folder : str or path
        What `python -m calex export --onnx` wrote.
    threads : int
        Of onnxruntime; 0 leaves it to that.

    Returns
    -------
    OnnxCascade
        At the operating point that it was saved at.

    Raises
    ------
    CalexError
        If onnxruntime is not installed, the folder holds no ONNX files, or one of them is not the one that was written.

    Examples
    --------
    >>> folder = "results/digits/resnet18/cascade"  # exported with --onnx
    >>> read(folder).classify(["photo.png"]).exit.shape  # doctest: +SKIP
    (1,)
    """
    from safetensors.numpy import load

    folder = Path(folder)
    record = read_record(folder)
    if PREPARE not in record["files"]:
        raise CalexError(f"{folder}: was exported without ONNX files; export it again with --onnx")
    sweep = sweep_of(record, load(read_file(folder, WEIGHTS, record)), folder / WEIGHTS)
    return assembled(lambda name: read_file(folder, name, record), sweep, record, record["point"], threads, folder=folder)


def assembled(
    content: Callable[[str], bytes],
    sweep: Sweep,
    about: dict[str, Any],
    point: int,
    threads: int = 0,
    providers: Sequence[str] = (),
    folder: Path = Path(),
) -> OnnxCascade:
    """Make a cascade of ONNX files.

    content: gives a file of a name. sweep, about, point: see `OnnxCascade`. threads: of onnxruntime. providers: what
    onnxruntime computes on, by its names, all that it has if none is named. folder: for an error.
    """
    try:
        import onnxruntime
    except ImportError:
        raise CalexError("onnxruntime is not installed; pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    providers = providers or onnxruntime.get_available_providers()

    def session(name: str) -> Any:
        model = content(name)
        try:
            return onnxruntime.InferenceSession(model, options, providers=providers)
        except Exception as error:  # onnxruntime's own kinds of errors
            raise CalexError(f"{folder / name}: onnxruntime cannot read it ({one_line(error)}); {AGAIN}") from None

    stages = [session(onnx_file(k)) for k in range(len(about["taps"]) + 1)]
    return OnnxCascade(session(PREPARE), stages, sweep, about, point)
