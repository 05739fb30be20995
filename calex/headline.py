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


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


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


# What the paired comparison says of one of "ours", the curves that all others are measured against.

# FLOPs reductions in which the gains are told: least and most budget, what they are called.
RANGES = ((0.3, 0.7, "at FLOPs reductions of 30–70%"), (0.7, 1.0, "below 30%"), (0.0, 0.3, "above 70%"))
VERDICTS = ("ahead", "behind", "undecided", "without a value")


def verdict(low: float | None, high: float | None) -> str:
    """Of ours, by the interval of another curve's difference: `ahead` lies wholly below 0, `behind` above."""
    if low is None or high is None:
        return VERDICTS[3]
    return VERDICTS[0] if high < 0 else VERDICTS[1] if low > 0 else VERDICTS[2]


def against_each(paired: pl.DataFrame, ours: str, left_out: bool = False) -> list[str]:
    """Where ours is ahead and where behind, and how many comparisons that took.

    paired: one backbone's rows of `paired.SCHEMA` with the other curve's name as `curve`. left_out: whether curves of
    ours are not among them.
    """
    rows = paired.sort("curve", "budget", descending=[False, True])
    found = [verdict(low, high) for low, high in rows.select("low", "high").iter_rows()]
    number = {name: found.count(name) for name in VERDICTS}
    valued = len(found) - number["without a value"]
    if not valued:
        return [f"Nowhere do {ours} and another curve both have a point for every seed: nothing can be compared."]
    others, budgets = rows["curve"].n_unique(), rows["budget"].n_unique()
    missing = f", {number['without a value']} without a value for want of a point" if valued < len(found) else ""
    whom = f"{counted(others, 'other curve')}{', none of them ours,' if left_out else ''}"
    summary = (
        f"{ours} was compared with {whom} at {counted(budgets, 'budget')}, on the same "
        f"{rows['n'][0]:,} test images and seeds: {counted(len(found), 'comparison')}{missing}. By their 95% intervals it is "
        f"ahead in {number['ahead']}, behind in {number['behind']}, and undecided in {number['undecided']}, where 0 lies within "
        "the interval (which shows no equality). "
    )
    summary += (
        "So it does not match or exceed every other curve at every budget. "
        if number["behind"]
        else "Nowhere is it shown to be behind. "
    )
    summary += (
        f"Were there no differences at all, {0.05 * valued:.2g} of {counted(valued, 'interval')} would leave 0 out by chance "
        "in the mean; nothing is corrected for that."
    )
    pattern: dict[tuple[tuple[float, str], ...], list[str]] = {}
    for (curve,), mine in rows.group_by("curve", maintain_order=True):
        key = tuple((row["budget"], verdict(row["low"], row["high"])) for row in mine.iter_rows(named=True))
        pattern.setdefault(key, []).append(str(curve))
    return [summary, *(f"Against {listed(names)}: {_told(key)}." for key, names in sorted(pattern.items(), key=_weight))]


def _weight(entry: tuple[tuple[tuple[float, str], ...], list[str]]) -> tuple[int, int, str]:
    """Behind first, then ahead: what is told apart before what is not."""
    kinds = [kind for _, kind in entry[0]]
    return -kinds.count("behind"), -kinds.count("ahead"), entry[1][0]


def _told(key: Sequence[tuple[float, str]]) -> str:
    parts = []
    for kind in VERDICTS:
        at = [percent(budget) for budget, found in key if found == kind]
        if at:
            parts.append(f"{kind} at every budget" if len(at) == len(key) > 1 else f"{kind} at {listed(at)}")
    return ", ".join(parts)


def gains(grid: pl.DataFrame, ours: str) -> list[str]:
    """Where ours gains most over the others: at FLOPs reductions of 30–70 %, or elsewhere.

    grid: curve, seed, budget, test_accuracy of each curve's choice on an even grid of budgets (null: none fits). A
    budget counts where both curves have a point for every seed.
    """
    whole = grid.group_by("curve", "budget").agg(
        mean=pl.when(pl.col("test_accuracy").null_count() == 0).then(pl.col("test_accuracy").mean())
    )
    mine = whole.filter(pl.col("curve") == ours).select("budget", mine="mean")
    gain = (
        whole.filter(pl.col("curve") != ours).join(mine, on="budget").with_columns(gain=pl.col("mine") - pl.col("mean"))
    ).drop_nulls("gain")
    by_curve = {
        said: dict(gain.filter(_within(least, most)).group_by("curve").agg(pl.col("gain").mean()).sort("curve").iter_rows())
        for least, most, said in RANGES
    }
    middle, *elsewhere = (by_curve[said] for _, _, said in RANGES)
    if not middle:
        return [f"At FLOPs reductions of 30–70%, {ours} and no other curve both have a point for every seed."]
    said = [f"{_points(sum(values.values()) / len(values))} points {where}" for where, values in by_curve.items() if values]
    compared = [curve for curve in middle if any(curve in values for values in elsewhere)]
    largest = [c for c in compared if all(middle[c] > values[c] for values in elsewhere if c in values) and middle[c] > 0]
    over = f"over {next(iter(middle))}" if len(middle) == 1 else f"over the {len(middle)} other curves"
    text = f"In test accuracy {ours} gains {over}, in the mean, {', '.join(said)}"
    if len(compared) == 1:
        text += f"; {'it is' if largest else 'it is not'} a gain that is largest at 30–70%"
    elif compared:
        text += f"; the gain is largest at 30–70% against {len(largest)} of {len(compared)}"
    return [f"{text}. (Means over seeds and over the budgets at which both have points; they have no interval.)"]


def _within(least: float, most: float) -> pl.Expr:
    """0.3 ≤ budget ≤ 0.7 for the middle, which has both of its ends; the others lie outside it."""
    if (least, most) == RANGES[0][:2]:
        return pl.col("budget").is_between(least, most)
    return (pl.col("budget") > least) & (pl.col("budget") <= most) if least else pl.col("budget") < most


def stability(grid: pl.DataFrame, ours: str) -> list[str]:
    """Whether the curves stand in the same order for every seed. `grid` as in `gains`."""
    seeds = grid["seed"].n_unique()
    if seeds < 2 or grid["curve"].n_unique() < 2:
        return []
    middle = grid.filter(_within(*RANGES[0][:2]))
    complete = middle.drop_nulls("test_accuracy").group_by("curve", "budget").len().filter(pl.col("len") == seeds)
    starts = dict(complete.group_by("curve").agg(pl.col("budget").min()).iter_rows())
    last = middle["budget"].max()
    names = sorted(name for name in starts if complete.filter((pl.col("curve") == name) & (pl.col("budget") == last)).height)
    if len(names) < 2:
        return ["Fewer than two curves have points for every seed within 70% of the FLOPs: no order to speak of."]
    first = max(starts[name] for name in names)
    means = (
        middle.filter((pl.col("budget") >= first) & pl.col("curve").is_in(names))
        .group_by("seed", "curve")
        .agg(pl.col("test_accuracy").mean().round(9))
        .sort("seed", "test_accuracy", "curve", descending=[False, True, False])
    )
    orders = [tuple(rows["curve"]) for _, rows in means.group_by("seed", maintain_order=True)]
    left = grid["curve"].n_unique() - len(names)
    without = f" ({counted(left, 'curve')} without such points left out)" if left else ""
    by = f"By mean test accuracy within {percent(first)} to 70% of the FLOPs, the {len(names)} curves{without}"
    if len(set(orders)) == 1:
        text = f"{by} stand in the same order for each of {seeds} seeds, {orders[0][0]} first"
    else:
        leaders = [order[0] for order in orders]
        who = (
            f"{leaders[0]} is first for each"
            if len(set(leaders)) == 1
            else "first is " + listed(f"{name} for {counted(leaders.count(name), 'seed')}" for name in dict.fromkeys(leaders))
        )
        text = f"{by} do not stand in the same order for each of {seeds} seeds; {who}"
    if ours in names and len(names) > 2:
        value = {(seed, curve): mean for seed, curve, mean in means.iter_rows()}
        sides = [
            {
                (value[seed, ours] > value[seed, name]) - (value[seed, ours] < value[seed, name])
                for seed in means["seed"].unique()
            }
            for name in names
            if name != ours
        ]
        steady = sum(side in ({1}, {-1}) for side in sides)
        text += f"; {ours} is on the same side of {steady} of {len(sides)} others for every seed"
    return [f"{text}."]


def _points(share: float) -> str:
    """`+1.2`, `−0.3`, `0.0`."""
    text = f"{100 * share:+.1f}"
    return text.replace("-", "−") if float(text) else text[1:]
