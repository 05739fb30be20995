"""The structure of a folder of images: which of its folders are splits and classes, and which files are images.

Whatever is not taken is counted by reason, so that what lies in a folder and what is used never differ in silence.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from calex.datasets._left_out import LeftOut, image_suffixes, is_system, reason_of
from calex.errors import CalexError, listed
from calex.images import SPLITS

# What people call the folder of a split, in any case.
ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
SPLIT_OF = {alias: split for split, aliases in ALIASES.items() for alias in aliases}
AMBIGUOUS = ("eval", "evaluation")  # val or test


@dataclass(frozen=True)
class Tree:
    """files: {split: {class: files}}, both in no order but that of the folder; a flat folder of classes is all `train`."""

    files: dict[str, dict[str, list[Path]]]
    left_out: LeftOut


def folders(place: Path) -> list[Path]:
    """List the folders in a folder, sorted, but for those of systems and links that lead back."""
    return sorted(
        Path(entry)
        for entry in os.scandir(place)
        if entry.is_dir() and not is_system(entry.name) and not leads_back(Path(entry), place)
    )


def leads_back(path: Path, place: Path) -> bool:
    """Tell whether a path in a folder is a link to this folder, or to one that it lies in."""
    target = os.path.realpath(path)
    return os.path.commonpath([target, os.path.realpath(place)]) == target


def has_splits(place: Path) -> bool:
    """Tell whether a folder holds one that is named like a split and has folders of classes."""
    return any(folder.name.casefold() in SPLIT_OF and folders(folder) for folder in folders(place))


def has_images(place: Path, deep: bool = True) -> bool:
    """Tell whether an image file is in a folder, or anywhere below it."""
    known = image_suffixes()
    for _, below, files in os.walk(place):
        below[:] = [name for name in below if deep and not is_system(name)]
        if any(Path(file).suffix.lower() in known and not is_system(file) for file in files):
            return True
    return False


def read_tree(place: Path) -> Tree:
    """Read what lies in a folder, `train/CLASS/…`, `test/CLASS/…` and perhaps `val/CLASS/…`, or `CLASS/…` alone.

    Raises CalexError where it cannot be understood, with the folder that is probably meant.
    """
    left_out = LeftOut()
    splits = split_folders(place, left_out)
    if not splits:
        check_level(place)
        splits = {"train": place}
    elif "train" not in splits:
        raise CalexError(f"{place}: no folder 'train' in it, only {listed(splits.values())}; put images into train/CLASS/")
    _count_strays(place, left_out)
    files = {split: class_files(splits[split], left_out) for split in SPLITS if split in splits}
    return Tree(files, left_out)


def split_folders(place: Path, left_out: LeftOut) -> dict[str, Path]:
    """Return {split: its folder}; nothing where the folders are classes.

    Unknown folders beside splits are left out, or refused where they look like a split that is missing.
    """
    named: dict[str, list[Path]] = {}
    others = []
    for folder in folders(place):
        split = SPLIT_OF.get(folder.name.casefold())
        if split is None:
            others.append(folder)
        else:
            named.setdefault(split, []).append(folder)
    if others and not any(folders(folder) for same in named.values() for folder in same):
        return {}  # a class may be named 'train'
    for split, same in named.items():
        if len(same) > 1:
            names = " and ".join(f"'{folder.name}'" for folder in same)
            raise CalexError(f"{place}: {names} are both the {split} images; join them or rename one")
    splits = {split: same[0] for split, same in named.items()}
    missing = [split for split in SPLITS if split not in splits]
    classes = {folder.name for split in splits.values() for folder in folders(split)}
    for folder in others if splits else []:
        name = folder.name.casefold()
        alike = name in AMBIGUOUS or len(classes & {below.name for below in folders(folder)}) >= 2
        if missing and alike:
            aliases = [alias for split in missing for alias in ALIASES[split] if name not in AMBIGUOUS]
            close = get_close_matches(name, aliases, 1, 0.75)
            hint = f"did you mean '{close[0]}'?" if close else f"rename it to {' or '.join(missing)}, or move it away"
            lacks = " or ".join(f"'{split}'" for split in missing)
            raise CalexError(f"{place}: no folder {lacks} in it, and '{folder.name}' may be one; {hint}")
        left_out.add("unknown folders", folder, "a split is named train, val or test")
    return splits


def check_level(place: Path) -> None:
    """Refuse a folder without splits that is none of classes, and say which folder is probably meant."""
    whole = place.resolve()
    around = folders(whole.parent) if os.access(whole.parent, os.R_OK) else []
    beside = [folder for folder in around if folder.name.casefold() in SPLIT_OF and folder != whole]
    if whole.name.casefold() in SPLIT_OF and any(folders(folder) for folder in beside):
        raise CalexError(
            f"{place}: is the split '{whole.name}' of a dataset, with '{beside[0].name}' beside it; set `folder` to"
            f" {whole.parent}"
        )
    below = folders(place)
    holders = [folder for folder in below if has_images(folder)]
    inner = [folder for folder in below if has_splits(folder)]
    if inner:
        raise CalexError(f"{place}: the splits lie one level deeper; set `folder` to {' or '.join(map(str, inner))}")
    crossed = [
        folder for folder in below if {"train", "test"} <= {SPLIT_OF.get(split.name.casefold()) for split in folders(folder)}
    ]
    if len(crossed) > 1:
        first = crossed[0].name
        raise CalexError(f"{place}: splits lie below classes ({first}/train); move {first}/train to train/{first} and so on")
    if len(holders) >= 2:
        return
    if not below and has_images(place, deep=False):
        meant = whole.parent.parent if whole.parent.name.casefold() in SPLIT_OF else whole.parent
        raise CalexError(
            f"{place}: holds images, but no folders of classes; put those of each class into {place}/CLASS/, or set `folder` to "
            f"{meant}, if this is a class of it"
        )
    if len(holders) == 1 and len(folders(holders[0])) >= 2:
        raise CalexError(f"{place}: the folders of classes lie one level deeper; set `folder` to {holders[0]}")
    content = f"one folder with images, {holders[0].name}" if holders else "no folder with images"
    raise CalexError(f"{place}: {content}; put images into {place}/train/CLASS/ and test/CLASS/, of two classes at least")


def _count_strays(place: Path, left_out: LeftOut) -> None:
    """Count what lies beside the folders of splits or classes and is not taken."""
    for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
        if is_system(entry.name):
            left_out.add("hidden or system files and folders", Path(entry))
        elif entry.is_dir():
            if leads_back(Path(entry), place):
                left_out.add("links to a folder that they lie in", Path(entry))
        elif Path(entry).suffix.lower() in image_suffixes():
            left_out.add("images outside of the folders of classes", Path(entry), "put them into CLASS/ folders")
        else:
            left_out.add(*reason_of(Path(entry)))


def class_files(folder: Path, left_out: LeftOut) -> dict[str, list[Path]]:
    """Return {class: its image files} of a split's folder; names in Unicode's composed form (NFC), so that 'café' is one class."""
    _count_strays(folder, left_out)
    classes: dict[str, list[Path]] = {}
    for below in folders(folder):
        classes.setdefault(unicodedata.normalize("NFC", below.name), []).extend(image_files(below, left_out))
    if len(classes) < 2:
        only = folders(folder)
        if len(only) == 1 and len(folders(only[0])) >= 2:
            raise CalexError(f"{folder}: the folders of classes lie one level deeper, in {only[0]}; move them up")
        direct = ", images lie directly in it" if has_images(folder, deep=False) else ""
        raise CalexError(f"{folder}: {len(classes)} class folders{direct}; at least two are needed, {folder}/CLASS/")
    return {name: sorted(files) for name, files in classes.items()}


def image_files(folder: Path, left_out: LeftOut) -> list[Path]:
    """List every image file below a class's folder, at any depth, each real file once.

    Links that lead back or to the same file are counted and passed over.
    """
    known = image_suffixes()
    images, seen = list[Path](), set[tuple[int, int]]()
    for file, _ in sorted(walk(folder, left_out), key=lambda item: (item[1], item[0])):
        if file.suffix.lower() not in known:
            left_out.add(*reason_of(file))
            continue
        try:
            status = file.stat()
        except OSError:
            left_out.add("links that lead nowhere", file, "correct or remove them")
            continue
        if (status.st_dev, status.st_ino) in seen:
            left_out.add("links to an image of the same class", file)
            continue
        seen.add((status.st_dev, status.st_ino))
        images.append(file)
    return images


def walk(
    folder: Path, left_out: LeftOut, above: frozenset[str] = frozenset(), linked: bool = False
) -> Iterator[tuple[Path, bool]]:
    """Yield every file below a folder that is no system's, and whether a link leads to it; links back are passed over."""
    real = os.path.realpath(folder)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        path = Path(entry)
        if is_system(entry.name):
            left_out.add("hidden or system files and folders", path)
        elif entry.is_dir():
            if os.path.realpath(path) in above or leads_back(path, folder):
                left_out.add("links to a folder that they lie in", path)
            else:
                yield from walk(path, left_out, above | {real}, linked or entry.is_symlink())
        else:
            yield path, linked or entry.is_symlink()
