"""Files that are not taken from a folder of images: which they are, why, and what can be done about it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

# Folders and files that systems leave among images, in any case; so are all that begin with a dot.
SYSTEM = {
    "@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "~snapshot", "__macosx", "$recycle.bin", "recycler",
    "system volume information", "lost+found", "found.000", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r",
}  # fmt: skip

# What is no image for us although people keep it among images: suffixes, what it is, what to do.
OTHER_KINDS = (
    ((".heic", ".heif", ".hif"), "HEIC photos", "convert them to JPEG"),
    ((".pdf", ".eps", ".ps", ".ai", ".svg", ".svgz", ".wmf", ".emf"), "documents or drawings", "render them to PNG"),
    ((".h5", ".hdf", ".hdf5", ".npy", ".npz", ".mat", ".parquet", ".tfrecord", ".tfrecords", ".lmdb", ".pkl", ".pt",
      ".grib", ".bufr"),
     "arrays", "write them as images, or write a source for them"),
    ((".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv"), "videos", "take images out of them"),
    ((".cr2", ".cr3", ".nef", ".arw", ".dng", ".orf", ".rw2", ".raf"), "raw photos", "develop them to JPEG or TIFF"),
    ((".dcm", ".nii"), "medical images", "convert them to PNG, or write a source for them"),
    ((".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar"), "archives", "unpack them"),
)  # fmt: skip
KIND_OF = {suffix: (kind, remedy) for suffixes, kind, remedy in OTHER_KINDS for suffix in suffixes}


@dataclass
class LeftOut:
    """Files that are not taken: how many by reason, an example of each, and which of it users should look at."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    remedies: dict[str, str] = field(default_factory=dict)

    def add(self, reason: str, example: Path, remedy: str = "") -> None:
        self.counts[reason] += 1
        self.examples.setdefault(reason, str(example))
        if remedy:
            self.remedies[reason] = remedy

    def lines(self, warnings: bool) -> list[str]:
        """Return one line a reason: those that ask for something, or the others."""
        return [
            f"{count} left out: {reason}, such as {self.examples[reason]}" + (f"; {self.remedies[reason]}" if warnings else "")
            for reason, count in sorted(self.counts.items())
            if (reason in self.remedies) == warnings
        ]


def is_system(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SYSTEM


@cache
def image_suffixes() -> set[str]:
    """Return the suffixes that Pillow decodes, in lower case."""
    return {suffix for suffix in Image.registered_extensions() if suffix not in KIND_OF}


def reason_of(file: Path) -> tuple[str, Path, str]:
    """Return why a file is no image: what it is, itself, what to do about it."""
    suffix = file.suffix.lower()
    kind, remedy = KIND_OF.get(suffix, ("", ""))
    if kind:
        return f"{kind} ({suffix})", file, remedy
    if not suffix:
        return "files without a suffix", file, "give images their suffix" if _is_image(file) else ""
    return f"{suffix} files", file, ""


def _is_image(file: Path) -> bool:
    try:
        with Image.open(file):
            return True
    except Exception:  # whatever a library raises at bytes that are no image
        return False
