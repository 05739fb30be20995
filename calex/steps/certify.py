"""Find the cheapest operating point of a finished cascade that is certified to be hardly worse than the backbone.

The policy is calibrated again on one half of the validation images; the other half, which chose nothing, tests its operating
points from dear to cheap. Of the test images nothing is used but to show what the promise was worth on them. Nothing is written.

    python -m calex certify results/digits/resnet18/calexnet/default/seed0 --policy cpm_full --drop 0.01 --confidence 0.9
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from calex.errors import CalexError, suggestion
from calex.policies import check_last, risk
from calex.simulation import exits
from calex.simulation.evaluation import measure
from calex.simulation.rule import Rule, calibrated
from calex.steps import _exits
from calex.system.files import read_json
from calex.workflow import job_settings, settings_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, help="of one trained cascade: results/DATASET/BACKBONE/METHOD/VARIANT/seedN")
    parser.add_argument("--policy", required=True, help="the entry of the config's policies whose operating points are tested")
    bound = parser.add_mutually_exclusive_group(required=True)
    bound.add_argument("--drop", type=float, help="how far the accuracy may be below the backbone's, as a share: 0.01")
    bound.add_argument("--disagreement", type=float, help="how often another answer than the backbone's may be given: 0.01")
    parser.add_argument("--confidence", type=float, default=0.9, help="with which it must hold; without it 0.9")


def settings_of(folder: Path, policy: str) -> dict[str, Any]:
    """Read from the run's description what a cascade was calibrated with: the settings of its step `calibrate`, by policy."""
    parts, above = folder.absolute().parts[-5:], list(folder.absolute().parents)
    wanted = "name a folder results/DATASET/BACKBONE/METHOD/VARIANT/seedN"
    if len(above) < 4:
        raise CalexError(f"{folder}: is in no folder of a finished run; {wanted}")
    record = above[3] / "run.json"
    if not record.is_file():
        raise CalexError(f"{folder}: no {record} of a finished run; {wanted}")
    config = read_json(record, "config.methods", "config.policies")["config"]
    dataset, backbone, method, variant, _ = parts
    if method not in config["methods"] or variant not in config["methods"][method]["variants"]:
        raise CalexError(f"{folder}: {record} knows no {method}/{variant}")
    if policy not in config["policies"]:
        raise CalexError(f"--policy: unknown name '{policy}' in {record}, {suggestion(policy, config['policies'])}")
    wildcards = {"dataset": dataset, "backbone": backbone, "method": method, "variant": variant, "policy": policy}
    return job_settings.settings("calibrate", {"features": {}, "exits": {}, "benchmarks": {}, **config}, wildcards)


def run(args: argparse.Namespace) -> None:
    kind, bound = ("drop", args.drop) if args.drop is not None else ("disagreement", args.disagreement)
    for flag, value in ((kind, bound), ("confidence", args.confidence)):
        if not 0 < value < 1:
            raise CalexError(f"--{flag}: {value} is not between 0 and 1, both excluded")
    chosen = settings_argument.with_policy(settings_argument.Settings(settings_of(args.folder, args.policy)))
    check_last("risk", chosen["last"], f"--policy: {args.policy}")
    policy, options = chosen.load_scorer()
    paths = sorted(args.folder.glob("exits[0-9]*.npz"), key=lambda path: int(path.stem.removeprefix("exits")))
    if not paths:
        raise CalexError(f"{args.folder}: holds no exits1.npz …; run the workflow first")
    validation, test = (_exits.read(paths, split, chosen) for split in ("val", "test"))

    def calibrate(images: exits.Exits) -> Rule:
        return calibrated(policy, images, policy.parameters(**options), chosen["correct"], options)

    block = {"risk": kind, "bounds": [bound], "confidence": args.confidence}
    rule, numbers, warnings = risk.choose(validation, calibrate, risk.parameters(**block), **block)
    (certificate,) = numbers["certificates"]
    if not certificate["passed"]:
        print(f"Nothing is promised: {warnings[0]}.")
        return
    (row,) = measure(test, rule.leave(test)).to_dicts()
    backbone = float((test.backbone == test.labels).mean())
    loss = backbone - row["accuracy"] if kind == "drop" else 1 - row["agreement"]
    print(
        f"With confidence {args.confidence:.0%}, the {kind} is at most {bound:.2%}: {args.policy} at {certificate['cost']:.1%} of "
        f"the backbone's FLOPs ({certificate['harms']} harms and {certificate['gains']} gains among {certificate['images']} "
        f"validation images that chose nothing; p = {certificate['p']:.4f})."
    )
    print(
        f"On {row['n']} test images: {kind} {loss:+.2%}, accuracy {row['accuracy']:.2%} where the backbone has {backbone:.2%}, "
        f"cost {row['flops_fraction']:.1%}."
    )
    spread = [
        " to ".join(f"{cut:.4g}" for cut in sorted({float(each.min()), float(each.max())})) for each in rule.thresholds[0]
    ]
    print("Thresholds: " + ", ".join(f"branch {k}: {text}" for k, text in enumerate(spread, start=1)) + ".")
