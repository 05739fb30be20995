"""Tests, not by approximation, of whether a cascade is worse than the backbone by more than was allowed, from counts of test images.

*Disagreement*: e of n images are answered otherwise than by the backbone; H: the rate is above ε. *Drop*: of n images h are
answered rightly by the backbone alone (harms) and g by the cascade alone (gains); H: the harms' rate less the gains' is above ε.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

# Rates of gains at which the p-value of a drop is computed, as shares of what is possible; the largest counts.
NUISANCE = np.concatenate([[0.0], np.geomspace(1e-5, 0.5, 45), np.linspace(0.55, 1, 19)])
EXACT_UP_TO = 20_000  # images up to which a needed number is checked exactly
SPREAD = 7.0  # standard deviations beyond which counts are left out: a chance of 1e-11


@cache
def log_factorials(n: int) -> np.ndarray:
    """Compute log 0!, …, log n!: (n + 1,) float64."""
    return np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])


def disagreement_p(errors: int, images: int, epsilon: float) -> float:
    """Compute P(Binomial(n, ε) ≤ e): the exact p-value of H: disagreement > ε."""
    return float(binomial_cdf(images, epsilon)[errors])


@cache
def binomial_cdf(images: int, rate: float) -> np.ndarray:
    """Compute P(Binomial(n, rate) ≤ e) for e = 0..n, (n + 1,) float64."""
    count, factorial = np.arange(images + 1), log_factorials(images)
    log_p = factorial[-1] - factorial - factorial[::-1] + count * np.log(rate) + (images - count) * np.log1p(-rate)
    return np.minimum(np.cumsum(np.exp(log_p)), 1.0)


def score_statistic(harms: np.ndarray, gains: np.ndarray, images: int, epsilon: float) -> np.ndarray:
    """Compute Tango's (1998) score statistic of H: harms' rate − gains' rate = ε; the smaller, the more against a larger drop.

    (h − g − nε) / √(n(2q + ε − ε²)), where q is the most likely rate of gains under H.
    """
    h, g = np.asarray(harms, float), np.asarray(gains, float)
    b = h + g + epsilon * (h - g) - 2 * images * epsilon
    q = (b + np.sqrt(b * b + 8 * images * g * epsilon * (1 - epsilon))) / (4 * images)
    return (h - g - images * epsilon) / np.sqrt(images * (2 * np.maximum(q, 0) + epsilon - epsilon * epsilon))


def drop_p(harms: int, gains: int, images: int, epsilon: float) -> float:
    """Compute the p-value of H: drop > ε: the chance of a statistic as small, at the rate of gains of a grid where it is largest."""
    observed = float(score_statistic(np.array(harms), np.array(gains), images, epsilon))
    worst = 0.0
    for gain in NUISANCE * (1 - epsilon) / 2:
        statistic, chance = _outcomes(images, epsilon, float(gain))
        worst = max(worst, float(chance[statistic <= observed + 1e-9].sum()))
    return min(worst, 1.0)


@cache
def critical_drop(images: int, epsilon: float, delta: float) -> float:
    """Find the largest statistic at which H: drop > ε is rejected at level δ: then p ≤ δ, and at the next larger one p > δ."""
    critical = np.inf
    for gain in NUISANCE * (1 - epsilon) / 2:
        statistic, chance = _outcomes(images, epsilon, float(gain))
        order = np.argsort(statistic, kind="stable")
        ordered, total = statistic[order], np.cumsum(chance[order])
        beyond = int(np.searchsorted(total, delta, side="right"))  # the first outcome that would exceed δ
        if beyond < len(ordered):
            smaller = np.searchsorted(ordered, ordered[beyond] - 1e-9)
            critical = min(critical, float(ordered[smaller - 1]) if smaller else -np.inf)
    return critical


def _outcomes(images: int, epsilon: float, gain: float) -> tuple[np.ndarray, np.ndarray]:
    """Give the statistic and the chance of every pair of counts that is not next to impossible at H's edge: two vectors."""
    harm = gain + epsilon
    h, g = (_likely(images, rate) for rate in (harm, gain))
    grid_h, grid_g = (each.ravel() for each in np.meshgrid(h, g, indexing="ij"))
    possible = grid_h + grid_g <= images
    grid_h, grid_g = grid_h[possible], grid_g[possible]
    factorial = log_factorials(images)
    rest = images - grid_h - grid_g
    log_p = factorial[images] - factorial[grid_h] - factorial[grid_g] - factorial[rest]
    with np.errstate(divide="ignore", invalid="ignore"):
        for count, rate in ((grid_h, harm), (grid_g, gain), (rest, 1 - harm - gain)):
            log_p = log_p + np.where(count > 0, count * np.log(max(rate, 0.0)), 0.0)
    return score_statistic(grid_h, grid_g, images, epsilon), np.exp(log_p)


def _likely(images: int, rate: float) -> np.ndarray:
    """Give the counts of a binomial within `SPREAD` standard deviations of its mean, and a few more for rare events."""
    centre, reach = images * rate, SPREAD * np.sqrt(images * rate * (1 - rate)) + 12
    return np.arange(max(0, int(centre - reach)), min(images, int(centre + reach)) + 1)


@dataclass(frozen=True)
class Counts:
    """What happened to n images: `harms` the backbone alone answers rightly, `gains` the cascade alone.

    For disagreement the harms are the images that are answered otherwise, and there are no gains.
    """

    harms: int
    gains: int
    images: int

    @property
    def risk(self) -> float:
        """The rate of harms less that of gains."""
        return (self.harms - self.gains) / self.images


def p_value(risk: str, counts: Counts, epsilon: float) -> float:
    """Compute the exact p-value of "the risk is above ε": `drop` or `disagreement`."""
    if risk == "drop":
        return drop_p(counts.harms, counts.gains, counts.images, epsilon)
    return disagreement_p(counts.harms, counts.images, epsilon)


def rejected(risk: str, harms: np.ndarray, gains: np.ndarray, images: int, epsilon: float, delta: float) -> np.ndarray:
    """Tell for many counts at once whether the p-value of "the risk is above ε" is at most δ: bool, of their shape."""
    if risk == "drop":
        return score_statistic(harms, gains, images, epsilon) <= critical_drop(images, epsilon, delta) + 1e-9
    return binomial_cdf(images, epsilon)[harms] <= delta


def fixed_sequence(rejections: np.ndarray) -> np.ndarray:
    """Go along a path while hypotheses are rejected: (…, P) bool to how many were, (…,) int64.

    With a path that does not depend on the tested images, the chance that a true hypothesis is among them is at most δ: the
    first true one would have to be rejected (Angelopoulos et al., Learn then Test, 2021).
    """
    return np.logical_and.accumulate(rejections, axis=-1).sum(axis=-1)


def images_needed(risk: str, counts: Counts, epsilon: float, delta: float) -> int | None:
    """Estimate how many images would do, if the same things happened at the same rates; None if no number would."""
    rates = np.array([counts.harms, counts.gains]) / counts.images
    if counts.risk >= epsilon:
        return None
    by_image = (
        float(score_statistic(rates[0] * 1e6, rates[1] * 1e6, 1_000_000, epsilon)) / 1000
    )  # it grows as the root of the images
    needed = max(counts.images + 1, (NormalDist().inv_cdf(delta) / by_image) ** 2)
    for _ in range(60):
        images = int(np.ceil(needed))
        harms, gains = (int(np.round(rate * images)) for rate in rates)
        if images > EXACT_UP_TO or p_value(risk, Counts(harms, gains, images), epsilon) <= delta:
            break
        needed *= 1.03
    return images
