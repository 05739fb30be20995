"""What the comparison shows, in words: computed from the numbers, and never more than they carry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

import polars as pl


@dataclass(frozen=True)
class Standing:
    """Who is ahead at one budget. `rivals` are the others whose seed range overlaps the leader's."""

    budget: float
    leader: str | None = None
    rivals: tuple[str, ...] = ()
    runner_up: str | None = None
    lead: float = 0.0

    @property
    def clear(self) -> bool:
        return self.runner_up is not None and not self.rivals


def percent(share: float, digits: int = 0) -> str:
    return f"{100 * share:.{digits}f}%"


def listed(names: Iterable[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def tied(band: pl.DataFrame) -> list[str]:
    """The curve with the best mean, then every curve whose range over seeds overlaps the best's, best first.

    `band` has curve, mean, low, high, seeds, of. A curve that has no point for some of its seeds is not
    comparable and is left out. Where seeds were not repeated there is no range, and nothing is told apart.
    """
    whole = band.filter((pl.col("seeds") == pl.col("of")) & pl.col("mean").is_not_null()).sort(
        "mean", "curve", descending=[True, False]
    )
    if not len(whole):
        return []
    best = whole.row(0, named=True)
    return whole.filter((pl.col("high") >= best["low"]) | (pl.col("of") < 2) | (best["of"] < 2))["curve"].to_list()


def standing(band: pl.DataFrame, budget: float) -> Standing:
    """The `Standing` at one budget of `band`: see `tied` for its columns."""
    if not (near := tied(band)):
        return Standing(budget)
    leader, *rivals = near
    mean = dict(band.filter(pl.col("seeds") == pl.col("of")).select("curve", "mean").iter_rows())
    others = sorted((name for name in mean if name != leader), key=lambda name: (-mean[name], name))
    if not others:
        return Standing(budget, leader)
    return Standing(budget, leader, tuple(rivals), others[0], mean[leader] - mean[others[0]])


def headline(band: pl.DataFrame, backbone_accuracy: float | None) -> list[str]:
    """Sentences about one backbone. `band` has budget, curve, mean, low, high, seeds, of."""
    budgets = sorted(band["budget"].unique().to_list(), reverse=True)
    standings = [standing(band.filter(pl.col("budget") == budget), budget) for budget in budgets]
    curves = band["curve"].n_unique()
    repeated = bool((band["of"] > 1).all())
    clauses = [_clause(list(run), len(budgets), curves, repeated) for _, run in groupby(standings, key=_alike)]
    said = [clause for clause in clauses if clause]
    return [sentence for sentence in (_joined(said), _retained(standings, band, backbone_accuracy)) if sentence]


def _alike(s: Standing) -> tuple[object, ...]:
    """Neighbouring budgets of which the same is to be said share a clause."""
    return (s.leader is None, s.runner_up is None, s.clear, s.leader if s.clear or s.runner_up is None else None)


def _joined(clauses: Sequence[str]) -> str:
    if not clauses:
        return ""
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}."


def _clause(run: Sequence[Standing], budgets: int, curves: int, repeated: bool) -> str:
    first = run[0]
    every = len(run) == budgets > 2
    at = listed(percent(s.budget) for s in run)
    if every:
        at = f"every budget from {percent(run[0].budget)} to {percent(run[-1].budget)}"
    at = f"within {at} of the FLOPs"
    if first.leader is None:
        return f"{at} no method has an operating point for every seed"
    if first.runner_up is None:
        return f"{at} only {first.leader} has an operating point for every seed" if curves > 1 else ""
    low, high = (f"{100 * lead:.1f}" for lead in (min(s.lead for s in run), max(s.lead for s in run)))
    by = low if low == high else f"{low} to {high}"
    if first.clear:
        rivals = listed(dict.fromkeys(s.runner_up for s in run if s.runner_up))
        whom = rivals if curves == 2 else f"the next best ({rivals})"
        return f"{at} {first.leader} is ahead of {whom} by {by} points, and their ranges over seeds do not overlap"
    if curves == 2:
        names = listed(sorted((first.leader, first.runner_up)))
        if repeated:
            return f"{at} the ranges over seeds of {names} overlap (their means are {by} points apart)"
        return f"{at} one seed does not tell {names} apart (they are {by} points apart)"
    leaders = list(dict.fromkeys(s.leader for s in run if s.leader))
    where = ", ".join(f"{name} at {listed(percent(s.budget) for s in run if s.leader == name)}" for name in leaders)
    best = leaders[0] if len(leaders) == 1 else where
    if repeated:
        return f"{at} no method stands out from the ranges over seeds (best mean: {best})"
    return f"{at} one seed, which has no range, tells no method from the others (best: {best})"


def _retained(standings: Sequence[Standing], band: pl.DataFrame, backbone_accuracy: float | None) -> str:
    """How much accuracy is left at half the cost, or at the budget nearest to it where something fits."""
    found = [s for s in standings if s.leader is not None]
    if not found:
        return ""
    at = min(found, key=lambda s: (abs(s.budget - 0.5), s.budget))
    row = band.filter((pl.col("budget") == at.budget) & (pl.col("curve") == at.leader)).row(0, named=True)
    alone = f"; the backbone alone reaches {percent(backbone_accuracy, 1)}" if backbone_accuracy is not None else ""
    return (
        f"Within {percent(at.budget)} of the FLOPs, {at.leader} gets {percent(row['mean'], 1)} of the test images right{alone}."
    )
