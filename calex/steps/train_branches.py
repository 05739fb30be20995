"""Train all branches of a cascade together over cached features: branch{k}.safetensors and exits{k}.npz for k = 1..K.

For recipes in which branches learn from each other (PTEEnet, ZTW, BoostNet). The exits files need no torch to be read;
calibration and evaluation start from them.
"""

from __future__ import annotations

import argparse

from calex import plugins
from calex.branches.branch import built, head_for
from calex.branches.fitting import TrainingJob
from calex.features.loader import Loader
from calex.simulation.cost import Costs
from calex.steps import _branches
from calex.system import devices
from calex.workflow import settings_argument

LOWER = _branches.LOWER


def add_arguments(parser: argparse.ArgumentParser) -> None:
    _branches.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    chosen = settings_argument.completed(args.settings, recipe="recipes", head="heads", target="targets")
    _branches.check(chosen, joint=True)
    device = devices.claim(args.device, args.threads)
    stores = _branches.opened(args.features)
    train = stores["train"]
    shapes, budget = train.layout.taps, chosen["memory_mb"] << 20

    recipe, options = plugins.load("recipes", chosen["recipe"]["name"]), plugins.options_of(chosen["recipe"])
    head = head_for(chosen["head"], train.provenance["flops"], train.layout.classes)
    cascade = built(chosen | {"head": head}, shapes, train.layout.classes, args.seed)
    loader = Loader(
        train, range(len(shapes)), options["batch_size"], seed=1000 * args.seed, device=device, memory_budget=budget
    )
    paid = [with_confidence or alone for alone, with_confidence in (branch.flops() for branch in cascade.branches)]  # type: ignore[operator]
    costs = Costs(tuple(train.provenance["flops_to_tap"]), tuple(paid), train.provenance["flops"])
    label = f"train-branches seed {args.seed}"
    recipe.train(cascade, TrainingJob(loader, chosen["target"], options, args.seed, device, label, costs=costs))
    _branches.write(cascade, range(len(shapes)), stores, args.out, device, args.threads, budget, chosen["train_log_softmax"])
