"""Does `risk` keep its promises on a finished run? `python tests/promises.py RESULTS/…/METHOD/VARIANT/seed0`.

The run's test images are the world, whose risks are known. Validation images choose the path, as the policy `stopping` has it;
the images that test it are drawn from the world, 4,000 times. Beside it the rule that people use without it: the cheapest
point whose risk on those images is at most the bound.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np

from calex import plugins
from calex.policies import risk
from calex.policies._certificates import fixed_sequence, rejected
from calex.simulation import cascade, exits
from calex.simulation.rule import calibrated

DELTA, REPEATS = 0.1, 4000


def harms_and_gains(world: exits.Exits, taken: np.ndarray, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(P, N) bool each: which images each operating point does worse and better than the backbone."""
    answers = cascade.predict(world, taken)
    if kind == "disagreement":
        return answers != world.backbone, np.zeros(answers.shape, bool)
    right, backbone = answers == world.labels, world.backbone == world.labels
    return backbone & ~right, right & ~backbone


def main(folder: str) -> None:
    paths = sorted(Path(folder).glob("exits*.npz"))
    val, world = (exits.read(paths, split, "max_softmax") for split in ("val", "test"))
    policy = plugins.load("policies", "stopping")
    options = plugins.options_of(plugins.complete("policies", {"name": "stopping"}, "policies.stopping"))
    path = calibrated(policy, val, policy.parameters(**options), "label", options)
    bar = DELTA + 3 * math.sqrt(DELTA * (1 - DELTA) / REPEATS)
    print(f"| risk | bound | images | certified broke it (at most {bar:.1%}) | it chose a point | the usual rule broke it |")
    print("|---|---|---|---|---|---|")
    for kind, bounds in (("drop", (0.005, 0.01, 0.02)), ("disagreement", (0.02, 0.05))):
        rule = path.at(risk.path_order(val, path, kind))
        harm, gain = harms_and_gains(world, rule.leave(world), kind)
        true = harm.mean(axis=1) - gain.mean(axis=1)
        for epsilon in bounds:
            for size in (400, 1000, 5000):
                images = len(world.labels)
                drawn = np.random.default_rng(0).multinomial(size, np.full(images, 1 / images), size=REPEATS).astype(np.float32)
                harms, gains = (np.rint(drawn @ each.T.astype(np.float32)).astype(int) for each in (harm, gain))
                passed = fixed_sequence(rejected(kind, harms, gains, size, epsilon, DELTA))
                reached = np.where(passed > 0, true[np.maximum(passed - 1, 0)], 0.0)
                fits = harms - gains <= epsilon * size
                usual = np.where(fits.any(axis=1), true[len(true) - 1 - fits[:, ::-1].argmax(axis=1)], 0.0)
                print(
                    f"| {kind} | {epsilon:.1%} | {size:,} | {(reached > epsilon).mean():.1%} | {(passed > 0).mean():.0%} | "
                    f"{(usual > epsilon).mean():.1%} |"
                )


if __name__ == "__main__":
    main(*sys.argv[1:])
