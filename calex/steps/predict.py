"""Classify pictures with a cascade: for each file its class, how probable, the exit that answered and its score.

Files and folders of pictures in any format that Pillow reads; of a folder, all pictures below it. A picture that cannot be
read is told, and the others go on. Exits count from 1; the last one is the whole network, of a policy with
`last: combined` together with the last branch.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from calex.datasets._folder import image_files
from calex.datasets._left_out import LeftOut
from calex.deploy import pictures, sweep
from calex.errors import CalexError
from calex.system.progress import say, track, warn
from calex.system.replacing import replacing

LOWER = "--batch-size"  # where there is not enough memory
FIELDS = ("file", "prediction", "probability", "exit", "score")
READERS = 4  # threads that decode


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("cascade", type=Path, help="the folder of a cascade, which `python -m calex export` writes")
    parser.add_argument("paths", type=Path, nargs="+", help="pictures, and folders of them")
    parser.add_argument("--out", type=Path, help="the file to write, .csv or .jsonl (default: CSV to standard output)")
    parser.add_argument("--format", choices=("csv", "jsonl"), help="JSON Lines hold all probabilities too (default: by --out)")
    sweep.add_arguments(parser)
    parser.add_argument("--batch-size", type=int, default=64, help="pictures at a time (default: 64)")
    parser.add_argument("--onnx", action="store_true", help="compute with onnxruntime, without torch")
    parser.add_argument("--device", default="auto", help="of torch: auto, cpu, mps, cuda or cuda:N (default: auto)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")


def run(args: argparse.Namespace) -> None:
    if args.batch_size < 1:
        raise CalexError(f"--batch-size: {args.batch_size} is less than 1")
    cascade = loaded(args)
    cascade = cascade.at(**wish) if (wish := sweep.wished(args)) else cascade
    files = listed(args.paths)
    begun, exits = time.perf_counter(), np.zeros(len(cascade.about["taps"]) + 1, np.int64)
    chosen = args.format or ("jsonl" if args.out is not None and args.out.suffix == ".jsonl" else "csv")
    with opened(args.out) as target:
        write = {"csv": csv_rows, "jsonl": json_lines}[chosen](target, cascade.classes)
        batches = range(0, len(files), args.batch_size)
        for names, pixels in track(
            decoded(files, cascade.about["picture"], args.batch_size), "predict", len(batches), "pictures", args.batch_size
        ):
            if names:
                answers = [
                    part if isinstance(part, np.ndarray) else part.cpu().numpy() for part in cascade.classify(np.stack(pixels))
                ]
                exits += np.bincount(answers[2], minlength=len(exits))
                write(names, *answers)
    seconds, answered = time.perf_counter() - begun, int(exits.sum())
    if not answered:
        raise CalexError(f"none of {len(files)} files could be read as a picture")
    shares = ", ".join(f"{k} {count / answered:.0%}" for k, count in enumerate(exits, 1))
    left = f", {len(files) - answered} could not be read" if answered < len(files) else ""
    say(f"predict: {answered} pictures in {seconds:.1f} s, {answered / seconds:.3g} a second{left}; left at exit {shares}")


def loaded(args: argparse.Namespace) -> Any:
    """The cascade, over onnxruntime or torch; the one needs not to have the other installed."""
    if args.onnx:
        from calex.deploy import onnx

        return onnx.read(args.cascade, args.threads)
    from calex.deploy import folder
    from calex.system import devices

    device = devices.claim(args.device, args.threads)
    return folder.read(args.cascade).to(device).fuse()


def listed(paths: Sequence[Path]) -> list[Path]:
    """Every picture that paths name: files, and what lies below folders."""
    missing = [str(path) for path in paths if not path.exists()]
    if missing:
        raise CalexError(f"{', '.join(missing)}: no such file or folder; check the path")
    left_out = LeftOut()
    files = [file for path in paths for file in (image_files(path, left_out) if path.is_dir() else [path])]
    for line in (*left_out.lines(warnings=False), *left_out.lines(warnings=True)):
        say(f"predict: {line}")
    if not files:
        raise CalexError(f"{', '.join(map(str, paths))}: no picture in there")
    return files


def decoded(files: Sequence[Path], picture: dict[str, Any] | None, size: int) -> Iterator[tuple[list[Path], list[np.ndarray]]]:
    """The readable pictures of each batch of files, decoded while the batch before is answered."""

    def attempt(path: Path) -> np.ndarray | CalexError:
        try:
            return pictures.read(path, picture)
        except (CalexError, OSError) as error:
            return error if isinstance(error, CalexError) else CalexError(f"{path}: {error.strerror}")

    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(attempt, path) for path in files[:size]]
        for start in range(0, len(files), size):
            ahead = [pool.submit(attempt, path) for path in files[start + size : start + 2 * size]]
            names, pixels = [], []
            for path, future in zip(files[start : start + size], waiting, strict=True):
                result = future.result()
                if isinstance(result, CalexError):
                    warn(str(result))
                else:
                    names.append(path)
                    pixels.append(result)
            yield names, pixels
            waiting = ahead


@contextmanager
def opened(path: Path | None) -> Iterator[TextIO]:
    """A file that is whole or not there, or standard output."""
    if path is None:
        yield sys.stdout
        sys.stdout.flush()
        return
    with replacing(path) as partial, open(partial, "w", encoding="utf-8", newline="") as target:
        yield target


def csv_rows(target: TextIO, classes: Sequence[str]) -> Any:
    """A function that writes rows of a table."""
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow(FIELDS)

    def write(files: Sequence[Path], predictions: Any, probabilities: Any, exits: Any, scores: Any) -> None:
        for file, label, shares, exit, score in zip(files, predictions, probabilities, exits, scores, strict=True):
            writer.writerow((file, classes[label], f"{shares[label]:.6g}", exit + 1, f"{score:.6g}"))

    return write


def json_lines(target: TextIO, classes: Sequence[str]) -> Any:
    """A function that writes an object a line, with the probability of every class."""

    def write(files: Sequence[Path], predictions: Any, probabilities: Any, exits: Any, scores: Any) -> None:
        for file, label, shares, exit, score in zip(files, predictions, probabilities, exits, scores, strict=True):
            values = (str(file), classes[label], float(shares[label]), int(exit) + 1, float(score))
            named = dict(zip(FIELDS, values, strict=True)) | {"probabilities": dict(zip(classes, shares.tolist(), strict=True))}
            target.write(json.dumps(named, ensure_ascii=False) + "\n")

    return write
