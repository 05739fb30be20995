"""What a checkpoint says, beside its weights, of the images and classes that it was trained on; compared with the config's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from calex.errors import CalexError

# The words that libraries use.
SIZES = {"input_size", "img_size", "image_size", "imgsz", "resolution", "crop_size", "val_crop_size"}
CLASSES = {
    "classes",
    "class_names",
    "class_to_idx",
    "idx_to_class",
    "label_names",
    "names",
    "categories",
    "id2label",
    "label2id",
}
DEPTH = 4  # of the blocks that are looked into


def entries(content: Any, depth: int = DEPTH) -> Iterator[tuple[str, Any]]:
    """Every (key, value) of nested dicts with text for keys."""
    if isinstance(content, Mapping) and depth:
        for key, value in content.items():
            if isinstance(key, str):
                yield key, value
            yield from entries(value, depth - 1)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def sizes(content: Any) -> list[tuple[str, int]]:
    """(key, pixels) for each size of images in a checkpoint: 224, or the last of (3, 224, 224)."""
    pairs = []
    for key, value in entries(content):
        if key in SIZES:
            last = value[-1] if isinstance(value, list | tuple) and value else value
            if _whole(last) and last > 0:
                pairs.append((key, last))
    return pairs


def class_orders(content: Any) -> list[tuple[str, list[str]]]:
    """(key, names in the order of the outputs) for each list or mapping of classes in a checkpoint."""
    orders = []
    for key, value in entries(content):
        if key not in CLASSES:
            continue
        if isinstance(value, list | tuple):
            names = [*value]
        elif isinstance(value, Mapping) and all(_whole(number) for number in value.values()):
            names = sorted(value, key=lambda name: value[name])
        elif isinstance(value, Mapping) and all(_whole(number) or str(number).isdecimal() for number in value):
            names = [value[number] for number in sorted(value, key=int)]
        else:
            continue
        orders.append((key, [str(name) for name in names]))
    return orders


def check_classes(content: Any, names: Sequence[str], where: str) -> None:
    """Refuse a checkpoint that tells the dataset's own classes in another order."""
    for key, order in class_orders(content):
        if order != list(names) and sorted(order) == sorted(names):
            raise CalexError(
                f"{where}: its '{key}' has the classes in another order than the dataset, {shortened(order)} and not "
                f"{shortened(names)}; set `classes:` of the dataset's source to the checkpoint's order"
            )


def check_size(content: Any, size: int) -> list[str]:
    """Give a warning, if a checkpoint names sizes of images and `size`, the config's, is none of them."""
    pairs = sizes(content)
    if not pairs or size in (pixels for _, pixels in pairs):
        return []
    key, pixels = pairs[0]
    return [f"the checkpoint says {key}: {pixels}, and input_size is {size}; set it to what the weights were trained at"]


def shortened(names: Sequence[str], most: int = 12) -> str:
    """Write `[a, b, c]`, or the first of many."""
    return f"[{', '.join(names[:most])}{', …' if len(names) > most else ''}]"
