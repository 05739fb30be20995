"""What the comparison of curves shows, as data: who leads at a budget, and what holds of one curve beside the others.

Everything is computed from tables of numbers; `wording` makes sentences of it. A *curve* is a method with a policy,
given by its name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import polars as pl

# FLOPs reductions of 30 to 70 %: budgets from 0.3 to 0.7, both ends included.
MIDDLE = (0.3, 0.7)
Range = Literal["middle", "below", "above"]  # of FLOPs reductions: 30–70 %, below 30 %, above 70 %
Verdict = Literal["ahead", "undecided", "behind", "missing"]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)


@dataclass(frozen=True)
class Standing:
    """Who leads at one budget. `rivals` are the others whose range over seeds overlaps the leader's."""

    budget: float
    leader: str | None = None
    rivals: tuple[str, ...] = ()
    runner_up: str | None = None
    lead: float = 0.0

    @property
    def clear(self) -> bool:
        """Whether the leader's range over seeds overlaps nobody's."""
        return self.runner_up is not None and not self.rivals


def tied(band: pl.DataFrame) -> list[str]:
    """Return the curve with the best mean, then every curve whose range over seeds overlaps the best's, best first.

    A curve that has no point for some of its seeds is not comparable and is left out. Where seeds were not repeated
    there is no range, and all curves are tied.

    band: curve, mean, low, high, seeds, of (see `pareto.over_seeds`).
    """
    complete = band.filter((pl.col("seeds") == pl.col("of")) & pl.col("mean").is_not_null()).sort(
        "mean", "curve", descending=[True, False]
    )
    if not len(complete):
        return []
    best = complete.row(0, named=True)
    return complete.filter((pl.col("high") >= best["low"]) | (pl.col("of") < 2) | (best["of"] < 2))["curve"].to_list()


def standing(band: pl.DataFrame, budget: float) -> Standing:
    """Who leads at one budget, of which `band` has the rows: see `tied` for its columns."""
    if not (near := tied(band)):
        return Standing(budget)
    leader, *rivals = near
    mean = dict(band.filter(pl.col("seeds") == pl.col("of")).select("curve", "mean").iter_rows())
    others = sorted((name for name in mean if name != leader), key=lambda name: (-mean[name], name))
    if not others:
        return Standing(budget, leader)
    return Standing(budget, leader, tuple(rivals), others[0], mean[leader] - mean[others[0]])


def standings(band: pl.DataFrame) -> list[Standing]:
    """Who leads at each budget of a band, from the largest budget to the smallest."""
    budgets = sorted(band["budget"].unique().to_list(), reverse=True)
    return [standing(band.filter(pl.col("budget") == budget), budget) for budget in budgets]


@dataclass(frozen=True)
class Comparison:
    """One curve against each other curve, image by image: a verdict for each of them and each budget.

    verdicts: other curve → budget, descending → verdict; those with most `behind` first, then with most `ahead`.
    images: of the test split. ours_excluded: whether other curves of our own methods are left out.
    """

    curve: str
    images: int
    verdicts: dict[str, dict[float, Verdict]]
    ours_excluded: bool = False

    def budgets(self, other: str, verdict: Verdict) -> list[float]:
        """Return the budgets, descending, at which the verdict on another curve is this one."""
        return [budget for budget, each in self.verdicts[other].items() if each == verdict]

    def count(self, verdict: Verdict) -> int:
        """Count the comparisons with this verdict, over all other curves and budgets."""
        return sum(len(self.budgets(other, verdict)) for other in self.verdicts)

    @property
    def total(self) -> int:
        """How many comparisons have a value."""
        return sum(map(len, self.verdicts.values())) - self.count("missing")


def verdict(low: float | None, high: float | None) -> Verdict:
    """Of a curve, by the interval of another curve's difference to it: `ahead` if it lies wholly below 0."""
    if low is None or high is None:
        return "missing"
    return "ahead" if high < 0 else "behind" if low > 0 else "undecided"


def comparison(paired: pl.DataFrame, curve: str, ours_excluded: bool = False) -> Comparison:
    """paired: one backbone's rows of `paired.SCHEMA` against `curve`, with the other curve's name as `curve`."""
    rows = paired.sort("curve", "budget", descending=[False, True])
    verdicts: dict[str, dict[float, Verdict]] = {}
    for row in rows.iter_rows(named=True):
        verdicts.setdefault(row["curve"], {})[row["budget"]] = verdict(row["low"], row["high"])

    def order(other: str) -> tuple[int, int, str]:
        kinds = list(verdicts[other].values())
        return -kinds.count("behind"), -kinds.count("ahead"), other

    return Comparison(curve, rows["n"][0], {other: verdicts[other] for other in sorted(verdicts, key=order)}, ours_excluded)


@dataclass(frozen=True)
class Gains:
    """By how much a curve's mean test accuracy exceeds each other curve's, in each range of FLOPs reductions.

    Means over seeds and over the budgets at which both curves have points; they have no interval.
    """

    curve: str
    by_range: dict[Range, dict[str, float]]

    @property
    def means(self) -> dict[Range, float]:
        """Over the other curves, for each range in which there is one."""
        return {name: sum(gain.values()) / len(gain) for name, gain in self.by_range.items() if gain}

    @property
    def comparable(self) -> list[str]:
        """The other curves of which the middle range can be compared with another one."""
        return [other for other in self.by_range["middle"] if len(self._of(other)) > 1]

    @property
    def largest_in_the_middle(self) -> list[str]:
        """The comparable curves over which the gain is above 0 and largest at FLOPs reductions of 30–70 %."""
        return [
            other
            for other in self.comparable
            for middle, *elsewhere in (self._of(other),)
            if middle > 0 and all(middle > gain for gain in elsewhere)
        ]

    def _of(self, other: str) -> list[float]:
        return [gain[other] for gain in self.by_range.values() if other in gain]


def gains(grid: pl.DataFrame, curve: str) -> Gains:
    """grid: curve, seed, budget, test_accuracy of each curve's choice on an even grid of budgets (null: none fits).

    A budget counts where both curves have a point for every seed.
    """
    mean = grid.group_by("curve", "budget").agg(
        mean=pl.when(pl.col("test_accuracy").null_count() == 0).then(pl.col("test_accuracy").mean())
    )
    own = mean.filter(pl.col("curve") == curve).select("budget", own="mean")
    gain = (
        mean.filter(pl.col("curve") != curve).join(own, on="budget").with_columns(gain=pl.col("own") - pl.col("mean"))
    ).drop_nulls("gain")
    budget = pl.col("budget")
    within: dict[Range, pl.Expr] = {
        "middle": budget.is_between(*MIDDLE),
        "below": (budget > MIDDLE[1]) & (budget <= 1),
        "above": budget < MIDDLE[0],
    }
    return Gains(
        curve,
        {
            name: dict(gain.filter(rows).group_by("curve").agg(pl.col("gain").mean()).sort("curve").iter_rows())
            for name, rows in within.items()
        },
    )


@dataclass(frozen=True)
class SeedOrder:
    """Whether curves stand in the same order for every seed, by mean test accuracy from the budget `first` to 0.7.

    orders: for each seed the curves, best first; without curves, if fewer than two are complete. left_out: how many
    curves lack points there. steady: of how many others the curve is on the same side for every seed.
    """

    curve: str
    first: float
    orders: list[tuple[str, ...]]
    left_out: int
    steady: int | None = None

    @property
    def same(self) -> bool:
        """Whether the order is the same for every seed."""
        return len(set(self.orders)) == 1

    @property
    def leaders(self) -> dict[str, int]:
        """The curves that are first for some seed, and for how many."""
        first = [names[0] for names in self.orders]
        return {name: first.count(name) for name in dict.fromkeys(first)}


def seed_order(grid: pl.DataFrame, curve: str) -> SeedOrder | None:
    """None for one seed or one curve. `grid` as in `gains`."""
    seeds, curves = grid["seed"].n_unique(), grid["curve"].n_unique()
    if seeds < 2 or curves < 2:
        return None
    middle = grid.filter(pl.col("budget").is_between(*MIDDLE))
    complete = middle.drop_nulls("test_accuracy").group_by("curve", "budget").len().filter(pl.col("len") == seeds)
    starts = dict(complete.group_by("curve").agg(pl.col("budget").min()).iter_rows())
    last = middle["budget"].max()
    names = sorted(name for name in starts if complete.filter((pl.col("curve") == name) & (pl.col("budget") == last)).height)
    if len(names) < 2:
        return SeedOrder(curve, MIDDLE[0], [], curves - len(names))
    first = max(starts[name] for name in names)
    means = (
        middle.filter((pl.col("budget") >= first) & pl.col("curve").is_in(names))
        .group_by("seed", "curve")
        .agg(pl.col("test_accuracy").mean().round(9))
        .sort("seed", "test_accuracy", "curve", descending=[False, True, False])
    )
    orders = [tuple(rows["curve"]) for _, rows in means.group_by("seed", maintain_order=True)]
    steady = None
    if curve in names and len(names) > 2:
        value = {(seed, name): mean for seed, name, mean in means.iter_rows()}
        every = means["seed"].unique()
        sides = [
            {(value[seed, curve] > value[seed, name]) - (value[seed, curve] < value[seed, name]) for seed in every}
            for name in names
            if name != curve
        ]
        steady = sum(side in ({1}, {-1}) for side in sides)
    return SeedOrder(curve, first, orders, curves - len(names), steady)


@dataclass(frozen=True)
class Claims:
    """What holds of one of our curves: it matches or exceeds the others (or not), where its gains are, how steadily."""

    comparison: Comparison
    gains: Gains
    order: SeedOrder | None


def claims(paired: pl.DataFrame, grid: pl.DataFrame, curve: str, ours: list[str]) -> Claims:
    """Make the claims about one curve beside the others.

    The others are the curves of other methods: ours are not their own rivals, unless there is nobody else.

    paired, grid: see `comparison` and `gains`. ours: the names of all curves of our methods.
    """
    rivals = ~pl.col("curve").is_in(ours)
    excluded = 0 < len(paired.filter(rivals)) < len(paired)
    if excluded:
        paired, grid = paired.filter(rivals), grid.filter(rivals | (pl.col("curve") == curve))
    return Claims(comparison(paired, curve, excluded), gains(grid, curve), seed_order(grid, curve))
