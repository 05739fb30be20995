"""What a dataset's report is made of, read off the config: variants, trained cascades, tables of operating points."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import product
from typing import Any

from calex import plugins
from calex.backbones.shares import SHARES
from calex.errors import CalexError

# The parts of a method's block whose options may be lists; `policies` is a list that makes no variants.
BLOCKS = ("recipe", "head", "target", "weighting")


@dataclass(frozen=True)
class CascadeRun:
    """K branches that were trained together: one variant of a method, with one seed."""

    dataset: str
    backbone: str
    method: str
    variant: str
    seed: int

    @property
    def folder(self) -> str:
        """Where its files are, below the folder of all results."""
        return f"{self.dataset}/{self.backbone}/{self.method}/{self.variant}/seed{self.seed}"


def variants(method: dict[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Return the variants of a method by name: its block with each list replaced by one of its values, in every combination.

    Names say what differs: `temperature=4`, with the block in front where two blocks have an option of that name. A
    method without a list has the one variant `default`. A value that is listed twice is a CalexError.
    """
    fixed = {key: value for key, value in method.items() if key != "policies"}
    places: list[tuple[str, ...]] = [(key,) for key, value in fixed.items() if isinstance(value, list)]
    places += [(key, option) for key in BLOCKS for option, value in fixed.get(key, {}).items() if isinstance(value, list)]
    for key, *option in places:
        if option == ["name"]:
            raise CalexError(f"{where}.{key}.name: a list; make a method of each, they have other options")
    shared = Counter(place[-1] for place in places)
    made: dict[str, dict[str, Any]] = {}
    listed = [fixed[place[0]] if len(place) == 1 else fixed[place[0]][place[1]] for place in places]
    for values in product(*listed):
        chosen = {key: dict(value) if isinstance(value, dict) else value for key, value in fixed.items()}
        differing = []
        for place, value, several in zip(places, values, listed, strict=True):
            block = chosen if len(place) == 1 else chosen[place[0]]
            block[place[-1]] = value
            if len(several) > 1:
                differing.append(f"{'.'.join(place) if shared[place[-1]] > 1 else place[-1]}={spelt(value)}")
        name = ",".join(differing) or "default"
        if "/" in name:
            raise CalexError(f"{where}: the variant {name} would be a folder's name, which holds no '/'; make a method of each")
        if name in made:
            raise CalexError(f"{where}: the variant {name} comes twice; list each value once")
        made[name] = chosen
    if not made:
        raise CalexError(f"{where}: an empty list leaves no variant; give it a value")
    return made


def spelt(value: Any) -> str:
    """Return a value as it stands in a file's name: 4.0 and 4 are the same."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def cascades(config: dict[str, Any], dataset: str) -> list[CascadeRun]:
    """Every cascade that a dataset's report holds, from a validated config."""
    entry = config["datasets"][dataset]
    return [
        CascadeRun(dataset, backbone, method, variant, seed)
        for backbone in entry["backbones"]
        for method in entry["methods"]
        for variant in config["methods"][method]["variants"]
        for seed in config["seeds"]
    ]


def ours(config: dict[str, Any], dataset: str) -> list[dict[str, str]]:
    """Return the curves that all others are compared with, each a method and the first of its policies.

    They are what a dataset calls `ours` of the methods that it lists, by default the first of these.
    """
    entry = config["datasets"][dataset]
    methods = [method for method in entry["ours"] if method in entry["methods"]] or entry["methods"][:1]
    return [{"method": method, "policy": config["methods"][method]["policies"][0]} for method in methods]


def compared(config: dict[str, Any], dataset: str) -> dict[str, Any]:
    """Return what `compare` is told: the curves of ours, and the budgets at which others are compared with them."""
    return {"ours": ours(config, dataset), "budgets": config["datasets"][dataset]["budgets"]}


def branch_numbers(config: dict[str, Any], backbone: str) -> range:
    """The numbers of a backbone's branches, from 1 on: one a tap."""
    taps = config["backbones"][backbone]["taps"]
    return range(1, len(SHARES if taps == "auto" else taps) + 1)


def timed(config: dict[str, Any], dataset: str) -> list[str]:
    """Every file of wall times that a dataset's report shows, below the folder of all results."""
    entry = config["datasets"].get(dataset, {})  # an unknown one is refused elsewhere
    return [f"{dataset}/{backbone}/latency.json" for backbone in entry.get("backbones", ())] if entry.get("latency") else []


def branch_exits(config: dict[str, Any], dataset: str) -> list[str]:
    """Every file of what branches answer, below the folder of all results."""
    return [
        f"{cascade.folder}/exits{k}.npz"
        for cascade in cascades(config, dataset)
        for k in branch_numbers(config, cascade.backbone)
    ]


def exits(config: dict[str, Any], dataset: str) -> list[str]:
    """Every file that says how test images were answered, below the folder of all results: what branches say, and who left where."""
    return [
        f"{cascade.folder}/{file}"
        for cascade in cascades(config, dataset)
        for file in [
            *(f"exits{k}.npz" for k in branch_numbers(config, cascade.backbone)),
            *(f"{policy}.exits.npz" for policy in config["methods"][cascade.method]["policies"]),
        ]
    ]


def deployable(config: dict[str, Any], dataset: str, backbone: str) -> list[str]:
    """Every file that a cascade over a backbone may be exported from, of the first seed, below the folder of all results."""
    numbers = branch_numbers(config, backbone)
    return [
        f"{cascade.folder}/{file}"
        for cascade in cascades(config, dataset)
        if cascade.backbone == backbone and cascade.seed == config["seeds"][0]
        for file in [
            *(f"{part.format(k)}" for k in numbers for part in ("branch{}.safetensors", "exits{}.npz")),
            *(
                f"{policy}.{part}"
                for policy in config["methods"][cascade.method]["policies"]
                for part in ("thresholds.parquet", "learnt.npz")
            ),
        ]
    ]


def points(config: dict[str, Any], dataset: str) -> list[str]:
    """Every table of operating points that a dataset's report holds, below the folder of all results."""
    return [
        f"{cascade.folder}/{policy}.points.parquet"
        for cascade in cascades(config, dataset)
        for policy in [*config["methods"][cascade.method]["policies"], "oracle"]
    ]


def sequential(variant: dict[str, Any]) -> bool:
    """Tell whether a variant's weighting needs the branches before: then its branches train one after the other."""
    return bool(plugins.constants("weightings", variant["weighting"]["name"]).get("SEQUENTIAL", False))


def records(config: dict[str, Any], dataset: str) -> list[tuple[CascadeRun, str, str]]:
    """Every record of how a cascade was calibrated and weighted: the cascade, of what it is, its file in the folder."""
    listed = []
    for cascade in cascades(config, dataset):
        method = config["methods"][cascade.method]
        if sequential(method["variants"][cascade.variant]):
            later = branch_numbers(config, cascade.backbone)[1:]
            listed += [(cascade, f"weights of branch {k}", f"weights{k}.json") for k in later]
        listed += [(cascade, f"policy {policy}", f"{policy}.calibration.json") for policy in method["policies"]]
    return listed
