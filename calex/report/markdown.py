"""The report's tables in Markdown, for pages that are written elsewhere: accuracy, difference, and counts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from calex.report.claims import Claims
from calex.report.formatting import counted, interval, joined, percent
from calex.report.tables import Section
from calex.report.wording import gain_clause, order_clause


def markdown(dataset: str, sections: Iterable[Section], run: dict[str, Any]) -> str:
    """For each backbone its tables; then on what, with what and how they were made."""
    majority = run.get("audit", {}).get("splits", {}).get("test", {}).get("majority")
    reference = f" Always answering “{majority['class']}”: {100 * majority['share']:.1f}." if majority else ""
    blocks = [
        block
        for section in sections
        for block in (*section_blocks(dataset, section, reference), *wall_times(run.get("latency", {}).get(section.backbone)))
    ]
    return "\n\n".join([*blocks, *provenance(run)]) + "\n"


def section_blocks(dataset: str, section: Section, reference: str) -> list[str]:
    """Accuracy, difference, and for each of ours the counts. reference: what the accuracies are to be compared with."""
    budgets = [percent(budget) for budget in section.budgets]
    alone = f" The backbone alone: {100 * section.backbone_accuracy:.1f}." if section.backbone_accuracy is not None else ""
    blocks = [
        f"**{dataset}, {section.backbone}**: test accuracy in percent within a budget of FLOPs, mean over seeds "
        f"[minimum–maximum].{alone}{reference}",
        table(
            ["", *budgets, "area, 30–70% saved"],
            [[row["curve"], *map(accuracy, row["cells"]), area(row["area"])] for row in section.rows],
        ),
    ]
    if section.ours:
        blocks += [
            f"Difference to {section.ours} on the same test images, in percentage points [95% interval].",
            table(
                ["", *budgets],
                [[row["curve"], *map(difference, row["cells"])] for row in section.rows if row["curve"] != section.ours],
            ),
        ]
    for curve, claims in section.claims.items():
        blocks += [f"**{curve}** beside each rival: at how many budgets it is ahead, undecided or behind.", counts(claims)]
        blocks.append(summary(claims))
    return blocks


def wall_times(time: dict[str, Any] | None) -> list[str]:
    """What `latency` measured of the exported cascade, if it did."""
    if time is None:
        return []
    made = time["made"]
    return [
        f"Wall time of the exported cascade, {made['method']} · {made['policy']}, beside the plain network on {time['device']} with "
        f"{counted(time['threads'], 'thread')}: medians an image, of the speed-up [least–largest].",
        table(
            ["images at a time", "network", "cascade", "speed-up", "by FLOPs"],
            [
                [
                    str(row["batch"]),
                    f"{1000 * row['network']:.3g} ms",
                    f"{1000 * row['cascade']:.3g} ms",
                    f"{row['speed_up']:.2f} [{row['low']:.2f}–{row['high']:.2f}]",
                    f"{row['predicted']:.2f}",
                ]
                for row in time["rows"]
            ],
        ),
    ]


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    return "\n".join([f"| {' | '.join(head)} |".replace("|  |", "| |"), "|---" * len(head) + "|", *lines])


def accuracy(cell: dict[str, Any]) -> str:
    """Write `98.8 [98.5–99.0]`."""
    if not cell["seeds"]:
        return "no point fits"
    spread = f" [{100 * cell['low']:.1f}–{100 * cell['high']:.1f}]" if cell["of"] > 1 else ""
    few = f", {cell['seeds']} of {cell['of']} seeds" if cell["seeds"] < cell["of"] else ""
    return f"{100 * cell['mean']:.1f}{spread}{few}"


def area(cell: dict[str, Any]) -> str:
    """Write an area like an accuracy, and whether it is partial."""
    return accuracy(cell) + (" (partial)" if cell["seeds"] and cell["covered"] < 1 else "")


def difference(cell: dict[str, Any]) -> str:
    """`+0.4 [−0.3, +1.1]`; empty where one of the curves has no point for some seed."""
    row = cell["difference"]
    if row is None or row["difference"] is None:
        return ""
    return interval(row["difference"], row["low"], row["high"], row["n"])


def counts(claims: Claims) -> str:
    """Write the verdicts on each rival, counted, with the budgets where they are not all alike."""
    c = claims.comparison

    def cell(other: str, verdict: Any) -> str:
        budgets = c.budgets(other, verdict)
        if len(budgets) in (0, len(c.verdicts[other])):
            return str(len(budgets))
        return f"{len(budgets)} ({', '.join(map(percent, budgets))})"

    kinds = ["ahead", "undecided", "behind", *(["missing"] if c.count("missing") else [])]
    return table(["rival", *kinds], [[other, *(cell(other, kind) for kind in kinds)] for other in c.verdicts])


def summary(claims: Claims) -> str:
    """Write the counts, the gains and the seeds in one sentence."""
    c, total = claims.comparison, claims.comparison.total
    if not total:
        return "Nowhere do both curves have a point for every seed: nothing can be compared."
    parts = [
        f"Ahead in {c.count('ahead')} of {counted(total, 'comparison')}, undecided in {c.count('undecided')}, behind in "
        f"{c.count('behind')} (95% intervals over {counted(c.images, 'test image')}, not corrected for their number: "
        f"without any difference {0.05 * total:.2g} would exclude 0 by chance)"
    ]
    if gain := gain_clause(claims.gains):
        of = len(claims.gains.comparable)
        largest = f", largest at 30–70% against {len(claims.gains.largest_in_the_middle)} of {of}" if of else ""
        parts.append(f"mean gain over the rivals {gain}{largest}")
    if claims.order is not None and (order := order_clause(claims.order)):
        parts.append(order)
    return "; ".join(parts) + "."


def provenance(run: dict[str, Any]) -> list[str]:
    """On what, with what and by which command the numbers were made, as far as `run` holds it."""
    images = [f"{number:,} {split}" for split, number in run.get("splits", {}).items()]
    parts = [f"{joined(images)} images"] if images else []
    if seeds := run.get("seeds"):
        parts.append(f"seed{'s' * (len(seeds) > 1)} {joined(map(str, seeds))}")
    parts += [kind for kind in run.get("hardware", {}).values() if kind]
    parts.append(", ".join(f"{name} {version}" for name, version in sorted(run.get("versions", {}).items())))
    about = "; ".join(part for part in parts if part)
    command = f"Made by `{run['command']}`." if run.get("command") else ""
    lines = "\n".join(line for line in (f"{about}." if about else "", command) if line)
    return [lines] if lines else []
