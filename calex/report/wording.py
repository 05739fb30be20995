"""Sentences about claims: nothing that the numbers do not support."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import polars as pl

from calex.report.claims import Comparison, Gains, Range, SeedOrder, Standing, standings
from calex.report.formatting import counted, joined, percent, signed

REDUCTIONS: dict[Range, str] = {
    "middle": "at FLOPs reductions of 30–70%",
    "below": "below 30%",
    "above": "above 70%",
}


def headline(band: pl.DataFrame, backbone_accuracy: float | None) -> list[str]:
    """Sentences about one backbone: which curve leads at which budget, and the accuracy at half the cost.

    band: budget, curve, mean, low, high, seeds, of (see `pareto.over_seeds`).
    """
    leads = standings(band)
    curves = band["curve"].n_unique()
    repeated = bool((band["of"] > 1).all())
    clauses = [lead_clause(list(run), len(leads), curves, repeated) for _, run in groupby(leads, key=_kind)]
    text = "; ".join(clause for clause in clauses if clause)
    sentences = (f"{text[:1].upper()}{text[1:]}." if text else "", at_half_cost(leads, band, backbone_accuracy))
    return [sentence for sentence in sentences if sentence]


def _kind(lead: Standing) -> tuple[object, ...]:
    """Neighbouring budgets of the same kind share a clause."""
    named = lead.leader if lead.clear or lead.runner_up is None else None
    return (lead.leader is None, lead.runner_up is None, lead.clear, named)


def lead_clause(run: Sequence[Standing], budgets: int, curves: int, repeated: bool) -> str:
    """Write what holds at neighbouring budgets. budgets, curves: how many there are; repeated: whether with several seeds."""
    first = run[0]
    at = joined(percent(lead.budget) for lead in run)
    if len(run) == budgets > 2:
        at = f"every budget from {percent(run[0].budget)} to {percent(run[-1].budget)}"
    at = f"within {at} of the FLOPs"
    if first.leader is None:
        return f"{at} no method has an operating point for every seed"
    if first.runner_up is None:
        return f"{at} only {first.leader} has an operating point for every seed" if curves > 1 else ""
    low, high = (f"{100 * lead:.1f}" for lead in (min(lead.lead for lead in run), max(lead.lead for lead in run)))
    by = low if low == high else f"{low} to {high}"
    if first.clear:
        rivals = joined(dict.fromkeys(lead.runner_up for lead in run if lead.runner_up))
        others = rivals if curves == 2 else f"the next best ({rivals})"
        return f"{at} {first.leader} is ahead of {others} by {by} points, and their ranges over seeds do not overlap"
    if curves == 2:
        names = joined(sorted((first.leader, first.runner_up)))
        if repeated:
            return f"{at} the ranges over seeds of {names} overlap (their means are {by} points apart)"
        return f"{at} one seed cannot separate {names} (they are {by} points apart)"
    leaders = list(dict.fromkeys(lead.leader for lead in run if lead.leader))
    where = ", ".join(f"{name} at {joined(percent(lead.budget) for lead in run if lead.leader == name)}" for name in leaders)
    best = leaders[0] if len(leaders) == 1 else where
    if repeated:
        return f"{at} the ranges over seeds of the best methods overlap (best mean: {best})"
    return f"{at} one seed gives no range, so no method can be called better (best: {best})"


def at_half_cost(leads: Sequence[Standing], band: pl.DataFrame, backbone_accuracy: float | None) -> str:
    """Write the leader's accuracy at half the cost, or at the budget nearest to it where something fits."""
    fitting = [lead for lead in leads if lead.leader is not None]
    if not fitting:
        return ""
    at = min(fitting, key=lambda lead: (abs(lead.budget - 0.5), lead.budget))
    row = band.filter((pl.col("budget") == at.budget) & (pl.col("curve") == at.leader)).row(0, named=True)
    alone = f"; the backbone alone reaches {percent(backbone_accuracy, 1)}" if backbone_accuracy is not None else ""
    return (
        f"Within {percent(at.budget)} of the FLOPs, {at.leader} gets {percent(row['mean'], 1)} of the test images right{alone}."
    )


def comparison_sentences(comparison: Comparison) -> list[str]:
    """How many comparisons there are, their results, and what these show."""
    c, total = comparison, comparison.total
    if not total:
        return ["There is no budget at which both curves have a point for every seed, so nothing can be compared."]
    budgets = max(map(len, c.verdicts.values()))
    others = f"{counted(len(c.verdicts), 'other curve')}{', none of them ours' if c.ours_excluded else ''}"
    missing = f"; {c.count('missing')} without a value, because a point is missing" if c.count("missing") else ""
    return [
        f"Compared with {others}, at {counted(budgets, 'budget')} on the same {counted(c.images, 'test image')} and seeds: "
        f"ahead in {c.count('ahead')} of {counted(total, 'comparison')}, undecided in {c.count('undecided')}, "
        f"behind in {c.count('behind')}{missing}.",
        f"Undecided: the 95% interval contains 0, which does not show equality. {by_chance(total)}",
    ]


def by_chance(comparisons: int) -> str:
    """Write how many intervals would exclude 0 by chance."""
    return (
        f"Were there no differences, {0.05 * comparisons:.2g} of {counted(comparisons, 'interval')} would be expected to "
        "exclude 0 by chance; nothing is corrected for that."
    )


def gain_clause(gains: Gains) -> str:
    """`+2.3 points at FLOPs reductions of 30–70%, −0.3 below 30%, +12.8 above 70%`; nothing without a middle."""
    if not gains.by_range["middle"]:
        return ""
    first, *rest = (f"{signed(mean)}|{REDUCTIONS[name]}" for name, mean in gains.means.items())
    return ", ".join([first.replace("|", " points "), *(each.replace("|", " ") for each in rest)])


def gain_sentence(gains: Gains) -> str:
    """Where a curve gains most over the others: at FLOPs reductions of 30–70 %, or elsewhere."""
    if not (clause := gain_clause(gains)):
        return "At FLOPs reductions of 30–70% no other curve has a point for every seed where this one has."
    others, comparable, largest = gains.by_range["middle"], gains.comparable, gains.largest_in_the_middle
    over = next(iter(others)) if len(others) == 1 else f"the {len(others)} other curves"
    where = f"; largest at 30–70% against {len(largest)} of {counted(len(comparable), 'curve')}" if comparable else ""
    return f"Mean gain in test accuracy over {over}: {clause}{where}. Means over seeds and budgets, without an interval."


def leaders(order: SeedOrder) -> str:
    """Write `a`, if it is first for each seed, or `a for 2 seeds and b for 1 seed`."""
    first = order.leaders
    return next(iter(first)) if len(first) == 1 else joined(f"{name} for {counted(n, 'seed')}" for name, n in first.items())


def order_clause(order: SeedOrder) -> str:
    """`between 30% and 70% of the FLOPs the order of the curves is the same for every seed (first: a)`."""
    if not order.orders:
        return ""
    text = f"between {percent(order.first)} and 70% of the FLOPs the order of the curves is "
    text += f"{'the same' if order.same else 'not the same'} for every seed (first: {leaders(order)})"
    if order.steady is not None:
        text += f", on the same side of {order.steady} of {len(order.orders[0]) - 1} rivals for every seed"
    return text


def order_sentence(order: SeedOrder) -> str:
    """Whether the curves stand in the same order for every seed."""
    if not order.orders:
        return "Fewer than two curves have points for every seed within 70% of the FLOPs: there is no order."
    seeds = len(order.orders)
    without = f" ({counted(order.left_out, 'curve')} without points for every seed left out)" if order.left_out else ""
    if order.same:
        text = f"stand in the same order for each of {seeds} seeds, {leaders(order)} first"
    else:
        text = f"do not stand in the same order for each of {seeds} seeds; first is {leaders(order)}"
    if order.steady is not None:
        others = len(order.orders[0]) - 1
        text += f". {order.curve} is on the same side of {order.steady} of {others} others for every seed"
    return (
        f"By mean test accuracy from {percent(order.first)} to 70% of the FLOPs, the {len(order.orders[0])} curves{without} "
        f"{text}."
    )
