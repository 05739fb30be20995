"""A cascade's README.md: what it learnt from, what it is worth, what it costs, and how to use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from calex.report.formatting import counted, joined, percent, quantity

# What answers where no branch does.
ANSWERS_LAST = {"backbone": "the whole network", "combined": "the whole network and the last branch together"}


def card(record: dict[str, Any], folder: Path) -> str:
    """Write the page of a cascade's record; folder: where it is going to lie."""
    classes, points, point, costs, made = (record[key] for key in ("classes", "points", "point", "costs", "made"))
    sections = [
        f"# {folder.name}",
        f"{record['network']['name']} with early exits at {joined(record['taps'])}; it tells "
        f"{counted(len(classes), 'class', 'classes')} apart: {', '.join(classes[:20])}{', …' if len(classes) > 20 else ''}.",
        f"An easy image is answered by the first branch that is sure enough of it, a hard one by {ANSWERS_LAST[record['last']]}.",
        "## What it is worth\n",
        "| images | accuracy | [95%] | the network's own | operations of the network |",
        "|---|---|---|---|---|",
        *(_row(split, points, point, made["images"].get(split)) for split in ("val", "test")),
        "\nThe operating point was chosen on the validation images; each of them was judged by thresholds that had not seen it."
        " Operations are FLOPs of convolutions and linear layers, of all branches that an image passed too; the network has "
        f"{quantity(costs['backbone'])}FLOPs an image.",
        "## Where images leave\n",
        "| exit | after | share of validation images | operations of an image |",
        "|---|---|---|---|",
        *_exits(record),
        "## How it was made\n",
        *(f"- {name}: {value}" for name, value in _facts(record)),
        "## Use it\n",
        f"    python -m calex predict {folder} pictures/ > answers.csv\n",
        "```python",
        "import calex",
        f'cascade = calex.load("{folder}")',
        'answers = cascade.classify(["picture.jpg"])',
        "cheaper = cascade.at(max_flops=0.3)",
        "```",
        f"\nWritten by calex {record['calex']}, format {record['format']}. Nothing in this folder is pickled.",
    ]
    return "\n".join(sections).replace("\n## ", "\n\n## ") + "\n"


def _row(split: str, points: dict[str, Any], point: int, images: int | None) -> str:
    accuracy, cost = points[f"{split}_accuracy"][point], points[f"{split}_flops_fraction"][point]
    own = points["network"][split]
    name = {"val": "validation", "test": "test"}[split]
    if accuracy is None or not images:
        return f"| {name} | not measured | | | |"
    interval = binomtest(round(accuracy * images), images).proportion_ci(method="wilson")
    bounds = f"{100 * interval.low:.1f}–{percent(interval.high, 1)}"
    return f"| {name} ({images:,}) | {percent(accuracy, 1)} | {bounds} | {percent(own, 1)} | {percent(cost)} |"


def _exits(record: dict[str, Any]) -> list[str]:
    costs, shares = record["costs"], record["points"]["exit_share"][record["point"]]
    paid, rows = 0.0, []
    for k, (tap, to_tap, head) in enumerate(zip(record["taps"], costs["to_tap"], costs["head"], strict=True)):
        paid += head
        rows.append(f"| {k + 1} | {tap} | {percent(shares[k], 1)} | {percent((to_tap + paid) / costs['backbone'])} |")
    whole = percent((costs["backbone"] + paid) / costs["backbone"])
    return [*rows, f"| {len(rows) + 1} | {ANSWERS_LAST[record['last']]} | {percent(shares[-1], 1)} | {whole} |"]


def _facts(record: dict[str, Any]) -> list[tuple[str, Any]]:
    made, picture, transform = record["made"], record["picture"], record["transform"]
    facts = [(name, made[name]) for name in ("dataset", "backbone", "method", "variant", "policy", "seed") if name in made]
    facts += [("recipe", record["method"]["recipe"]["name"]), ("head", record["method"]["head"]["name"])]
    facts += [("score that is compared with thresholds", record["score"])]
    if picture is not None:
        colour = "grey" if picture["grey"] else "RGB"
        facts += [("pictures are read as", f"{picture['size']}×{picture['size']} {colour}, {picture['fit']}")]
    facts += [
        ("the network reads", f"{transform['size']}×{transform['size']}, mean {transform['mean']}, std {transform['std']}")
    ]
    facts += [("fingerprints", ", ".join(f"{name} {value[:12]}" for name, value in made.get("fingerprints", {}).items()))]
    return [*facts, ("versions", ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items()))]
